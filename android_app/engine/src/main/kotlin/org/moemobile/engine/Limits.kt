// Copyright the moe-mobile authors.
// SPDX-License-Identifier: Apache-2.0

package org.moemobile.engine

/** How much the engine may say, and how long it may be silent. The same as in the Python package. */
internal object Limits {
    /** Bytes of an answer that holds nothing for each token. */
    const val ANSWER_BYTES = 4L shl 20

    /** Bytes that an answer may hold in addition for each token or repetition that was asked for. */
    const val TOKEN_BYTES = 4L shl 10

    /** No answer is longer. */
    const val LONGEST_BYTES = 64L shl 20

    /** Values in one answer: they take more memory than their text. */
    const val VALUES = 8 shl 20

    /** How deep values may be in each other. */
    const val DEPTH = 64

    /** Steps of progress and other events before one answer; tokens come on top. */
    const val EVENTS = 100_000

    /** Stages of progress before one answer. */
    const val STAGES = 64

    /** Characters of a text that become part of an exception. */
    const val TOLD = 2000

    /** Lines of what the engine wrote to stderr that are kept, and characters of each. */
    const val LAST_LINES = 12
    const val LINE_CHARACTERS = 2000

    /** An exit is waited for so long after the engine closed its output or its input was closed. */
    const val CLOSE_MS = 5_000L

    /** The largest number in an answer. */
    const val MOST_NUMBER = 1L shl 62
}

/**
 * How long a silent engine is waited for.
 *
 * @property lookMs after so long it is looked at; after twice this time it must have computed meanwhile
 * @property longestMs it may seem to compute
 */
internal class Patience(val lookMs: Long = 60_000, val longestMs: Long = 3_600_000)
