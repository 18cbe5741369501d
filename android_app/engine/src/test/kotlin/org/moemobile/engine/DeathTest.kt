// Copyright the moe-mobile authors.
// SPDX-License-Identifier: Apache-2.0

package org.moemobile.engine

import java.io.File
import kotlinx.coroutines.CompletableDeferred
import kotlinx.coroutines.async
import kotlinx.coroutines.flow.first
import kotlinx.coroutines.flow.toList
import kotlinx.coroutines.supervisorScope
import org.junit.Assert.assertEquals
import org.junit.Assert.assertFalse
import org.junit.Assert.assertTrue
import org.junit.Test

class DeathTest {
    private fun endless(engine: MoeEngine) = engine.generate(Machine.prompt, 900, ignoreEos = true)

    @Test
    fun aKilledEngineIsToldInWords() = inMinutes {
        val command = RunnerCommand.of(Machine.runner, exitReasons = { pid -> "the system needed memory (process $pid)" })
        val engine = Machine.open(command)
        val pid = engine.opened.pid
        var sent = false
        val why =
            failing<MoeException.Killed> {
                endless(engine).collect {
                    if (it is Generation.Token && !sent) send("KILL", pid)
                    sent = it is Generation.Token
                }
            }
        assertTrue(why.message, "was killed by SIGKILL" in why.message)
        assertTrue(why.message, "the system needed memory (process $pid)" in why.message)
        assertTrue(why.message, "less memory" in why.remedy!!)
        assertEquals(why, engine.ended.first { it != null })
        assertEquals(why, failing<MoeException.Killed> { engine.residency() })
        engine.close()
    }

    @Test
    fun allWhoWaitAreTold() = inMinutes {
        val engine = Machine.open()
        val begun = CompletableDeferred<Unit>()
        supervisorScope {
            val one = async { failing<MoeException.RuntimeFailed> { endless(engine).collect { begun.complete(Unit) } } }
            val two = async { failing<MoeException.RuntimeFailed> { engine.score(Machine.prompt) } }
            begun.await()
            send("SEGV", engine.opened.pid)
            for (why in listOf(one.await(), two.await())) assertTrue(why.message, "SIGSEGV" in why.message)
        }
        engine.close()
    }

    @Test
    fun closingEndsWhatRuns() = inMinutes {
        val engine = Machine.open()
        val begun = CompletableDeferred<Unit>()
        supervisorScope {
            val one = async { failing<MoeException.RuntimeFailed> { endless(engine).collect { begun.complete(Unit) } } }
            begun.await()
            engine.close()
            assertTrue(one.await().message, "closed" in one.await().message)
        }
        assertFalse(File("/proc/${engine.opened.pid}").exists())
    }

    @Test
    fun anEngineThatHangsIsEnded() = inMinutes {
        val engine = MoeEngine.openPatiently(Machine.command, Machine.demo, Machine.options, Patience(lookMs = 300))
        send("STOP", engine.opened.pid)
        val why = failing<MoeException.RuntimeFailed> { endless(engine).toList() }
        assertTrue(why.message, "does not compute" in why.message)
        engine.close()
        assertFalse(File("/proc/${engine.opened.pid}").exists())
    }

    @Test
    fun anEngineThatComputesOrWaitsForTheFlashMayBeSilent() {
        val awaited = Awaited(request("info"))
        assertTrue(awaited.mayGoOn(5.0))
        assertTrue(awaited.mayGoOn(5.5))
        assertTrue(awaited.mayGoOn(Double.POSITIVE_INFINITY))
        assertTrue(awaited.mayGoOn(6.0))
        assertFalse(awaited.mayGoOn(6.05))
        assertFalse(awaited.mayGoOn(null))

        val here = ProcessHandle.current().pid()
        val before = workOf(here)!!
        val until = System.nanoTime() + 60_000_000_000
        while (workOf(here)!! < before + 0.1) check(System.nanoTime() < until)
        assertEquals(null, workOf(Long.MAX_VALUE))
    }

    @Test
    fun onesThatCannotStartAreTold() = inMinutes {
        val nothing = File(Machine.demo, "no-such-program")
        val missing = failing<MoeException.RuntimeFailed> { Machine.open(RunnerCommand.of(nothing)) }
        assertEquals(nothing.path, missing.file)
        val words = failing<MoeException.RuntimeFailed> { Machine.open(shell("echo no such library >&2; exit 127")) }
        assertTrue(words.message, "exit code 127" in words.message && "no such library" in words.message)
    }

    @Test
    fun whatItSaysToStderrIsBoundedAndDrained() = inMinutes {
        val much = "head -c 3000000 /dev/zero | tr '\\0' x >&2; seq 1 100000 >&2"
        val why = failing<MoeException.RuntimeFailed> { Machine.open(shell("$START; $much; exit 3")) }
        assertTrue(why.message, "exit code 3" in why.message && "100000" in why.message)
        assertTrue("${why.message.length}", why.message.length < 2 * Limits.TOLD)
    }

    @Test
    fun nonsenseEndsIt() = inMinutes {
        val token = "{\"id\":1,\"event\":\"token\",\"token\":5}"
        val answers =
            mapOf(
                "hello" to "expected an event",
                "[1]" to "expected an event",
                "{\"event\":\"token\"}" to "its `id`",
                "{\"id\":7,\"event\":\"result\"}" to "nobody asked",
                "{\"id\":1,\"event\":\"result\"}" to "its `token_ids`",
                "{\"id\":1,\"event\":\"error\",\"error\":5}" to "its `error`",
                "{\"id\":1,\"event\":\"token\",\"token\":-5}" to "its `token`",
                "{\"id\":1,\"event\":\"token\",\"token\":1e999}" to "expected an event",
                "$token\n$token\n$token" to "more tokens",
                "{\"id\":1,\"event\":\"progress\",\"stage\":\"x\",\"done\":3,\"total\":2}" to "beyond its end",
            )
        for ((answer, why) in answers) {
            val client = RunnerClient(shell("$START; read line; printf '%s\\n' '$answer'; cat"))
            val found =
                failing<MoeException.RuntimeFailed> {
                    client.ask(generateRequest(Machine.prompt, 2, null, false), ::generated)
                }
            assertTrue("$answer: ${found.message}", "broke its protocol" in found.message && why in found.message)
            client.close()
        }
    }

    @Test
    fun floodsEndIt() = inMinutes {
        val progress = "{\"id\":1,\"event\":\"progress\",\"stage\":\"x\",\"done\":1,\"total\":2}"
        val floods =
            mapOf(
                "head -c 6000000 /dev/zero | tr '\\0' x; cat" to "a line is longer",
                "yes '$progress' | head -n 200000; cat" to "more than 100000 events",
            )
        for ((flood, why) in floods) {
            val client = RunnerClient(shell("$START; read line; $flood"))
            val found = failing<MoeException.RuntimeFailed> { client.ask(request("info"), ::info) }
            assertTrue("${found.message}", why in found.message)
            client.close()
        }
    }

    private fun shell(script: String) = RunnerCommand(listOf("sh", "-c", script))

    private companion object {
        const val START = "echo '{\"event\":\"start\",\"pid\":'$$'}'"
    }
}
