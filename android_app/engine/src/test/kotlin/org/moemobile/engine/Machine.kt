// Copyright the moe-mobile authors.
// SPDX-License-Identifier: Apache-2.0

package org.moemobile.engine

import java.io.File
import java.util.concurrent.TimeUnit
import kotlin.time.Duration.Companion.minutes
import kotlinx.coroutines.CoroutineScope
import kotlinx.coroutines.runBlocking
import kotlinx.coroutines.withTimeout

/** What the tests run with: this machine's engine, and the demo bundle that the laptop's export made. */
object Machine {
    val runner = File(System.getProperty("moe.runner"))
    val demo = File(System.getProperty("moe.demo"))
    val expected = File(System.getProperty("moe.expected"))

    /** The engine as a folder with glibc's loader and all libraries. */
    val runtime = File(System.getProperty("moe.runtime"))

    val command = RunnerCommand.of(runner)

    /** Packed weights of the demo bundle. Python's client made them, in a process of its own. */
    val packed = File(expected.parentFile, "expected-packed")

    val options = EngineOptions(cache = "50%", threads = 1, packedFolder = packed.path)

    val prompt = Prompt.Tokens(listOf(5, 6, 7, 100, 2000, 31, 8, 9))

    suspend fun open(command: RunnerCommand = this.command, options: EngineOptions = this.options) =
        MoeEngine.open(command, demo, options)
}

/** For what hangs: a busy machine takes its time. */
fun inMinutes(test: suspend CoroutineScope.() -> Unit) = runBlocking { withTimeout(10.minutes) { test() } }

/** Runs a test with the open demo bundle. */
fun withEngine(options: EngineOptions = Machine.options, test: suspend CoroutineScope.(MoeEngine) -> Unit) = inMinutes {
    val engine = Machine.open(options = options)
    try {
        test(engine)
    } finally {
        engine.close()
    }
}

fun send(signal: String, pid: Long) {
    val kill = ProcessBuilder("kill", "-$signal", pid.toString()).start()
    check(kill.waitFor(1, TimeUnit.MINUTES) && kill.exitValue() == 0)
}

/** The exception of that kind that a block throws. */
suspend inline fun <reified E : Throwable> failing(block: suspend () -> Unit): E {
    try {
        block()
    } catch (e: Throwable) {
        return e as? E ?: throw e
    }
    throw AssertionError("nothing was thrown")
}
