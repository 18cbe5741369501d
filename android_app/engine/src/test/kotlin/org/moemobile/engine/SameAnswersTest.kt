// Copyright the moe-mobile authors.
// SPDX-License-Identifier: Apache-2.0

package org.moemobile.engine

import kotlinx.coroutines.flow.toList
import kotlinx.serialization.json.Json
import kotlinx.serialization.json.JsonObject
import kotlinx.serialization.json.double
import kotlinx.serialization.json.int
import kotlinx.serialization.json.jsonArray
import kotlinx.serialization.json.jsonObject
import kotlinx.serialization.json.jsonPrimitive
import org.junit.Assert.assertEquals
import org.junit.Assert.assertNull
import org.junit.Assert.assertTrue
import org.junit.Test

/** What the package's Python client gets from the same engine and bundle, this library gets too. */
class SameAnswersTest {
    private val told = Json.parseToJsonElement(Machine.expected.readText()).jsonObject

    private fun of(kind: String, name: String): JsonObject = told.getValue(kind).jsonObject.getValue(name).jsonObject

    private fun ids(of: JsonObject) = of.getValue("token_ids").jsonArray.map { it.jsonPrimitive.int }

    @Test
    fun greedy() = withEngine { engine -> checkTokens(engine, "greedy", null, ignoreEos = false) }

    @Test
    fun sampled() = withEngine { engine ->
        checkTokens(engine, "sampled", Sampling(0.8, topK = 40, topP = 0.9, seed = 7), ignoreEos = true)
    }

    @Test
    fun scored() = withEngine { engine ->
        val scored = engine.score(Prompt.Tokens(ids(of("requests", "score"))))
        val values = of("answers", "score").getValue("log_probabilities").jsonArray.map { it.jsonPrimitive.double }
        assertEquals(values, scored.logProbabilities)
        assertNull(scored.tokenIds)
    }

    private suspend fun checkTokens(engine: MoeEngine, name: String, sampling: Sampling?, ignoreEos: Boolean) {
        val prompt = Prompt.Tokens(ids(of("requests", name)))
        val expected = ids(of("answers", name))
        assertTrue(expected.size > 10)
        val all = engine.generate(prompt, 24, sampling, ignoreEos).toList()
        assertEquals(expected, all.filterIsInstance<Generation.Token>().map { it.id })
        val finished = all.last() as Generation.Finished
        assertEquals(expected, finished.result.tokenIds)
        assertEquals(Stop.LENGTH, finished.result.stop)
        assertNull(finished.result.text)
        // Each token but the last went through the model, and the prompt is one entry.
        assertEquals(expected.size, finished.result.stats.tokens.size)
        assertEquals(finished.result.stats, engine.stats)
    }
}
