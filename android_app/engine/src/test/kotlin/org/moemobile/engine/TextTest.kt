// Copyright the moe-mobile authors.
// SPDX-License-Identifier: Apache-2.0

package org.moemobile.engine

import kotlinx.coroutines.flow.toList
import kotlinx.serialization.json.Json
import kotlinx.serialization.json.int
import kotlinx.serialization.json.jsonArray
import kotlinx.serialization.json.jsonObject
import kotlinx.serialization.json.jsonPrimitive
import org.junit.Assert.assertEquals
import org.junit.Assert.assertNotEquals
import org.junit.Assert.assertNull
import org.junit.Assert.assertTrue
import org.junit.Assume.assumeFalse
import org.junit.Assume.assumeTrue
import org.junit.Test

/** The app's engine takes texts; the one of the Python package does not, and says so. */
class TextTest {
    private val told = Json.parseToJsonElement(Machine.expected.readText()).jsonObject.getValue("words").jsonObject
    private val text = told.getValue("text").jsonPrimitive.content
    private val ids = told.getValue("token_ids").jsonArray.map { it.jsonPrimitive.int }

    @Test
    fun withoutTextItIsRefused() = withEngine { engine ->
        assumeFalse(engine.opened.text)
        for (prompt in listOf(Prompt.Text(text), Prompt.Chat(listOf(Message("user", text))))) {
            val refused = failing<MoeException> { engine.generate(prompt).toList() }
            assertTrue(refused.code, refused is MoeException.Usage || refused is MoeException.Unsupported)
        }
        assertEquals(ids.size - 1, engine.score(Prompt.Tokens(ids)).logProbabilities.size)
    }

    @Test
    fun textIsTokenizedAsInPython() = withEngine { engine ->
        assumeTrue(engine.opened.textNote, engine.opened.text)
        assertEquals(ids, engine.tokenize(Prompt.Text(text)).tokenIds)
        assertEquals(text, engine.detokenize(ids))
        val scored = engine.score(Prompt.Text(text))
        assertEquals(ids, scored.tokenIds)
        assertEquals(engine.score(Prompt.Tokens(ids)).logProbabilities, scored.logProbabilities)
    }

    @Test
    fun textComesInPieces() = withEngine { engine ->
        assumeTrue(engine.opened.textNote, engine.opened.text)
        val byText = engine.generate(Prompt.Text(text), 30).toList()
        val byIds = engine.generate(Prompt.Tokens(ids), 30).toList()
        val tokens = byText.filterIsInstance<Generation.Token>()
        assertEquals(byIds.filterIsInstance<Generation.Token>().map { it.id }, tokens.map { it.id })
        val result = (byText.last() as Generation.Finished).result
        assertEquals(ids.size, result.promptTokens)
        assertNotEquals("", result.text)
        assertTrue(result.text, result.text!!.startsWith(tokens.joinToString("") { it.text!! }))
        assertNull((byIds.last() as Generation.Finished).result.text)
    }

    @Test
    fun aModelWithoutATemplateTakesNoMessages() = withEngine { engine ->
        assumeTrue(engine.opened.textNote, engine.opened.text)
        val chat = Prompt.Chat(listOf(Message("user", text)))
        val refused = failing<MoeException> { engine.tokenize(chat) }
        assertTrue(refused.message, "template" in refused.message)
    }
}
