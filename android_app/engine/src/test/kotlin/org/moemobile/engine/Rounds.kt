// Copyright the moe-mobile authors.
// SPDX-License-Identifier: Apache-2.0

package org.moemobile.engine

import java.io.File
import kotlinx.coroutines.delay
import kotlinx.coroutines.flow.take
import kotlinx.coroutines.flow.toList
import org.junit.Assert.assertEquals
import org.junit.Assert.assertTrue

/** Rounds of what an app does all the time, and what they may leave behind: nothing. */
object Rounds {
    /** Open, generate, cancel, close: a process each. */
    suspend fun ofProcesses(count: Int) {
        oneProcess()
        val before = Held.now()
        repeat(count) { oneProcess() }
        before.isHeldAgain()
    }

    /** Generate and cancel in one process. */
    suspend fun inOneProcess(count: Int) {
        val engine = Machine.open()
        repeat(WARM_UP) { oneAnswer(engine) }
        engine.info()
        val before = Held.now()
        val memory = rss(engine.opened.pid)
        repeat(count) { oneAnswer(engine) }
        engine.info()
        soon { engine.client.unanswered == 0 }
        assertEquals(0, engine.client.unanswered)
        before.isHeldAgain()
        val more = rss(engine.opened.pid) - memory
        assertTrue("the engine holds $more bytes more", more < count * 1000L + (4 shl 20))
        engine.close()
    }

    private suspend fun oneProcess() {
        val engine = Machine.open()
        oneAnswer(engine)
        engine.close()
    }

    private suspend fun oneAnswer(engine: MoeEngine) {
        val begin = engine.generate(Machine.prompt, 500, ignoreEos = true).take(2).toList()
        assertEquals(2, begin.size)
    }

    private suspend fun soon(fits: () -> Boolean) {
        repeat(600) { if (fits()) return else delay(100) }
    }

    private fun rss(pid: Long): Long =
        File("/proc/$pid/statm").readText().split(" ")[1].toLong() * 4096

    private const val WARM_UP = 100

    /** What this process holds of the system. */
    private data class Held(val descriptors: Int, val threads: List<String>, val children: String) {
        /** Threads end a moment after what they did. */
        suspend fun isHeldAgain() {
            soon { fits(now()) }
            val last = now()
            if (!fits(last)) assertEquals(this, last)
        }

        private fun fits(other: Held) =
            other.descriptors <= descriptors && other.threads == threads && other.children == children

        companion object {
            fun now() =
                Held(
                    File("/proc/self/fd").list()!!.size,
                    Thread.getAllStackTraces().keys.map { it.name }.filter { it.startsWith("moe-") }.sorted(),
                    File("/proc/self/task").listFiles()!!.joinToString("") { File(it, "children").readText() },
                )
        }
    }
}
