// Copyright the moe-mobile authors.
// SPDX-License-Identifier: Apache-2.0

package org.moemobile.engine

/**
 * What went wrong, in which file or setting, and what to do.
 *
 * The kinds are those of the engine and of the Python package. [file], [setting] and [remedy] are null if there is
 * none.
 */
sealed class MoeException(
    val code: String,
    val text: String,
    val file: String?,
    val setting: String?,
    val remedy: String?,
) : Exception() {
    override val message: String
        get() {
            val place = file ?: setting
            val said = if (place == null) text else "$place: $text"
            return if (remedy == null) said else "$said. $remedy"
        }

    /** An argument is wrong, or arguments do not fit each other. */
    class Usage(text: String, file: String? = null, setting: String? = null, remedy: String? = null) :
        MoeException("usage", text, file, setting, remedy)

    /** A model, option or version that this engine cannot handle. */
    class Unsupported(text: String, file: String? = null, setting: String? = null, remedy: String? = null) :
        MoeException("unsupported", text, file, setting, remedy)

    /** A manifest or file breaks the bundle format. */
    class BundleInvalid(text: String, file: String? = null, setting: String? = null, remedy: String? = null) :
        MoeException("bundle_invalid", text, file, setting, remedy)

    /** Bytes do not match their hash. */
    class BundleCorrupt(text: String, file: String? = null, setting: String? = null, remedy: String? = null) :
        MoeException("bundle_corrupt", text, file, setting, remedy)

    /** Reading or writing failed. */
    class Io(text: String, file: String? = null, setting: String? = null, remedy: String? = null) :
        MoeException("io", text, file, setting, remedy)

    /** No space is left where the engine writes. */
    class DiskFull(text: String, file: String? = null, setting: String? = null, remedy: String? = null) :
        MoeException("disk_full", text, file, setting, remedy)

    /** The target cannot be written. */
    class ReadOnly(text: String, file: String? = null, setting: String? = null, remedy: String? = null) :
        MoeException("read_only", text, file, setting, remedy)

    /** The memory budget is too small. */
    class Budget(text: String, file: String? = null, setting: String? = null, remedy: String? = null) :
        MoeException("budget", text, file, setting, remedy)

    /** ExecuTorch, or the process that runs the engine, failed. */
    class RuntimeFailed(text: String, file: String? = null, setting: String? = null, remedy: String? = null) :
        MoeException("runtime", text, file, setting, remedy)

    /** The system killed the engine, mostly for lack of memory. */
    class Killed(text: String, file: String? = null, setting: String? = null, remedy: String? = null) :
        MoeException("killed", text, file, setting, remedy)

    /** The work was stopped on request. A coroutine that is cancelled gets its own CancellationException instead. */
    class Cancelled(text: String, file: String? = null, setting: String? = null, remedy: String? = null) :
        MoeException("cancelled", text, file, setting, remedy)

    internal companion object {
        /** The exception for what the engine reported. A code that is not known is a failure of the runtime. */
        fun of(code: String, text: String, file: String?, setting: String?, remedy: String?): MoeException =
            when (code) {
                "usage" -> Usage(text, file, setting, remedy)
                "unsupported" -> Unsupported(text, file, setting, remedy)
                "bundle_invalid" -> BundleInvalid(text, file, setting, remedy)
                "bundle_corrupt" -> BundleCorrupt(text, file, setting, remedy)
                "io" -> Io(text, file, setting, remedy)
                "disk_full" -> DiskFull(text, file, setting, remedy)
                "read_only" -> ReadOnly(text, file, setting, remedy)
                "budget" -> Budget(text, file, setting, remedy)
                "killed" -> Killed(text, file, setting, remedy)
                "cancelled" -> Cancelled(text, file, setting, remedy)
                else -> RuntimeFailed(text, file, setting, remedy)
            }
    }
}
