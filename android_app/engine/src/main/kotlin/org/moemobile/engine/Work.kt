// Copyright the moe-mobile authors.
// SPDX-License-Identifier: Apache-2.0

package org.moemobile.engine

import java.io.File
import java.io.IOException

/** CPU seconds that a process has taken; infinity if it waits for the flash now; null if there is no such process. */
internal fun workOf(pid: Long): Double? {
    val whole = fieldsOf(File("/proc/$pid/stat")) ?: return null
    val threads = File("/proc/$pid/task").listFiles().orEmpty()
    if (threads.any { fieldsOf(File(it, "stat"))?.firstOrNull() == "D" }) return Double.POSITIVE_INFINITY
    if (whole[0] == "Z") return null
    return (whole[USER_TIME].toLong() + whole[SYSTEM_TIME].toLong()) / TICKS_A_SECOND
}

/** The fields after the name, which may contain spaces; the first is the state. */
private fun fieldsOf(stat: File): List<String>? =
    try {
        stat.readText().substringAfterLast(") ").split(" ")
    } catch (_: IOException) {
        null
    }

private const val USER_TIME = 11
private const val SYSTEM_TIME = 12
private const val TICKS_A_SECOND = 100.0
