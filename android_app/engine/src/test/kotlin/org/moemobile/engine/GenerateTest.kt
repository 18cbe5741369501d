// Copyright the moe-mobile authors.
// SPDX-License-Identifier: Apache-2.0

package org.moemobile.engine

import kotlinx.coroutines.CompletableDeferred
import kotlinx.coroutines.CoroutineStart
import kotlinx.coroutines.Job
import kotlinx.coroutines.async
import kotlinx.coroutines.cancelAndJoin
import kotlinx.coroutines.flow.first
import kotlinx.coroutines.flow.take
import kotlinx.coroutines.flow.toList
import kotlinx.coroutines.launch
import org.junit.Assert.assertEquals
import org.junit.Assert.assertTrue
import org.junit.Test

class GenerateTest {
    private suspend fun MoeEngine.tokens(count: Int = 8) =
        generate(Machine.prompt, count, ignoreEos = true).toList().filterIsInstance<Generation.Token>().map { it.id }

    @Test
    fun itIsColdAndCanBeCollectedAgain() = withEngine { engine ->
        val flow = engine.generate(Machine.prompt, 5, ignoreEos = true)
        assertEquals(null, engine.stats)
        assertEquals(flow.toList().dropLast(1), flow.toList().dropLast(1))
    }

    @Test
    fun whatIsNotWantedAnyMoreStopsAndTheEngineStaysOpen() = withEngine { engine ->
        val whole = engine.tokens()
        val begin = engine.generate(Machine.prompt, 900, ignoreEos = true).take(3).toList()
        assertEquals(3, begin.size)
        // Had it gone on, this would have waited for 900 tokens: the engine tells how many there are.
        assertEquals(whole, engine.tokens())
        assertEquals(Machine.prompt.ids.size + whole.size - 1L, engine.stats!!.totals.tokens)
    }

    @Test
    fun cancellingTheCoroutineStopsWithinAToken() = withEngine { engine ->
        val begun = CompletableDeferred<Unit>()
        val job: Job = launch {
            engine.generate(Machine.prompt, 900, ignoreEos = true).collect {
                if (it is Generation.Token) begun.complete(Unit)
            }
        }
        begun.await()
        job.cancelAndJoin()
        // A conversation goes on from what was decoded. One token may have been under way.
        val next = engine.generate(Prompt.Tokens(listOf(5), continues = true), 1).toList().last()
        val position = (next as Generation.Finished).result.position
        assertTrue("$position", position < 900)
    }

    @Test
    fun requestsWaitForEachOther() = withEngine { engine ->
        val whole = engine.tokens()
        val two = List(2) { async { engine.tokens() } }
        assertEquals(listOf(whole, whole), two.map { it.await() })
    }

    @Test
    fun aConversationContinues() = withEngine { engine ->
        val first = engine.generate(Machine.prompt, 4, ignoreEos = true).toList().last() as Generation.Finished
        val second = engine.generate(Prompt.Tokens(listOf(1, 2), continues = true), 4, ignoreEos = true).toList().last()
        // The last token was not read, and the new ones come after the others.
        assertEquals(first.result.position + 2 + 3, (second as Generation.Finished).result.position)
    }

    @Test
    fun theCacheChangesSizeWhileTokensCome() = withEngine { engine ->
        val whole = engine.tokens(60)
        val asked = mutableListOf<MemoryPlan>()
        var count = 0
        engine.generate(Machine.prompt, 60, ignoreEos = true).collect {
            if (it is Generation.Token && ++count % 20 == 0) {
                asked += engine.resize(if (count % 40 == 0) "100%" else "25%")
            }
        }
        assertEquals(listOf(48L, 192L, 48L), asked.map { it.slots })
        assertEquals(48L, engine.info().plan.slots)
        assertEquals(whole, engine.tokens(60))
        val refused = failing<MoeException.Usage> { engine.resize("5 apples") }
        assertEquals("cache", refused.setting)
        assertEquals(48L, engine.info().plan.slots)
    }

    @Test
    fun residencyShowsWhatIsInMemoryWhileTokensCome() = withEngine { engine ->
        val before = engine.residency()
        assertEquals((0 until 6).toList(), before.layers)
        assertEquals(32, before.experts)
        assertTrue(before.misses.all { it == 0L })
        val during = mutableListOf<Residency>()
        engine.generate(Machine.prompt, 20, ignoreEos = true).collect { during += engine.residency() }
        val last = during.last()
        val ready =
            last.layers.indices.sumOf { row ->
                (0 until last.experts).count { last.state(row, it) == Residency.State.READY }
            }
        assertTrue("$ready", ready in 24..96)
        assertEquals(0, last.variant(0, 0))
        val uses = engine.stats!!.totals.uses
        assertEquals(uses.hits + uses.misses, last.hits.sum() + last.misses.sum())
    }

    @Test
    fun whoDoesNotWaitForAGlanceStopsNothingElse() = withEngine { engine ->
        val whole = engine.tokens(40)
        val found = mutableListOf<Int>()
        engine.generate(Machine.prompt, 40, ignoreEos = true).collect {
            if (it is Generation.Token) found += it.id
            // It has sent its request when it is cancelled.
            launch(start = CoroutineStart.UNDISPATCHED) { engine.residency() }.cancel()
        }
        assertEquals(whole, found)
    }

    @Test
    fun whatTheEngineRefusesIsTyped() = withEngine { engine ->
        val empty = failing<MoeException.Usage> { engine.generate(Prompt.Tokens(emptyList())).first() }
        assertEquals("token_ids", empty.setting)
        assertEquals("usage", empty.code)
        assertTrue(empty.message, empty.message.endsWith(empty.remedy!!))
        assertEquals(4, engine.tokens(4).size)
        failing<MoeException.Usage> { engine.generate(Machine.prompt, sampling = Sampling(Double.NaN)) }
    }

    @Test
    fun aBenchmarkAndMisses() = withEngine { engine ->
        val stages = mutableListOf<Progress>()
        val samples = engine.bench(Bench(prompt = 16, generated = 8, repetitions = 2)) { stages += it }
        assertEquals(listOf(8, 8), samples.map { it.itlNs.size })
        assertEquals(listOf(9, 9), samples.map { it.tokens.size })
        assertTrue(samples.all { it.memory.rss > 0 && it.cacheFill in 0.0..1.0 })
        assertTrue("$stages", stages.any { it.stage == "bench" })
        assertEquals(3, engine.measureMisses(3).rawReadNs.size)
    }

}
