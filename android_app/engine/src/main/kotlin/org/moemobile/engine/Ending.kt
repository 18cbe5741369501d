// Copyright the moe-mobile authors.
// SPDX-License-Identifier: Apache-2.0

package org.moemobile.engine

/** The exception for an error that the engine reported. */
internal fun reported(error: Members): MoeException =
    MoeException.of(
        code = error.textOrNull("code").orEmpty(),
        text = (error.textOrNull("cause") ?: "unknown error").take(Limits.TOLD),
        file = error.textOrNull("file")?.ifEmpty { null },
        setting = error.textOrNull("setting")?.ifEmpty { null },
        remedy = error.textOrNull("remedy")?.ifEmpty { null }?.take(Limits.TOLD),
    )

/**
 * The exception for an engine that ended without an answer.
 *
 * @param code its exit code, 128 + n if signal n ended it, null if it did not end in time
 * @param reason what the system says
 */
internal fun ended(name: String, code: Int?, lastWords: String, reason: String?): MoeException {
    val signal = code?.minus(SIGNALLED)?.takeIf { it in 1..64 }
    val how =
        when {
            code == null -> "closed its output"
            signal != null -> "was killed by ${signalName(signal)}"
            else -> "ended with exit code $code"
        }
    var text = "the engine $how before it answered"
    if (reason != null) text += ": $reason"
    if (lastWords.isNotEmpty()) text += "; its last words:\n" + lastWords.prependIndent("    ")
    return if (signal == SIGKILL) {
        val remedy = "Probably for lack of memory: give the experts less memory, or choose a shorter context"
        MoeException.Killed(text, name, remedy = remedy)
    } else {
        MoeException.RuntimeFailed(text, name, remedy = "Verify the bundle, then try again")
    }
}

private const val SIGNALLED = 128
private const val SIGKILL = 9

private fun signalName(number: Int): String =
    when (number) {
        1 -> "SIGHUP"
        2 -> "SIGINT"
        4 -> "SIGILL"
        6 -> "SIGABRT"
        7 -> "SIGBUS"
        8 -> "SIGFPE"
        SIGKILL -> "SIGKILL"
        11 -> "SIGSEGV"
        13 -> "SIGPIPE"
        15 -> "SIGTERM"
        31 -> "SIGSYS"
        else -> "signal $number"
    }
