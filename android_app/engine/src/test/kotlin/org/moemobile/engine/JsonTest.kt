// Copyright the moe-mobile authors.
// SPDX-License-Identifier: Apache-2.0

package org.moemobile.engine

import org.junit.Assert.assertEquals
import org.junit.Assert.assertNotNull
import org.junit.Assert.assertNull
import org.junit.Assert.assertThrows
import org.junit.Test

class JsonTest {
    @Test
    fun onlyObjectsOfStrictJsonAreTaken() {
        for (text in listOf("{}", "{\"a\": [1, -2.5e3, true, null, \"é\"]}", " {\"a\": {}} ")) {
            assertNotNull(text, parseObject(text.toByteArray()))
        }
        val wrong =
            listOf("", "1", "[]", "{", "{\"a\": word}", "{\"a\": 01}", "{\"a\": NaN}", "{\"a\": 1e999}", "{\"a\": 1,}") +
                ("{\"a\":".repeat(100) + "1" + "}".repeat(100))
        for (text in wrong) assertNull(text, parseObject(text.toByteArray()))
        assertNull(parseObject("{\"a\": \"".toByteArray() + byteArrayOf(-1) + "\"}".toByteArray()))
        assertNull(parseObject(("{\"a\": [" + "0,".repeat(Limits.VALUES) + "0]}").toByteArray()))
    }

    @Test
    fun textsAreMadeSafe() {
        assertEquals("a\tb\n�[31m� é 😀 �", withoutControls("a\tb\n\u001b[31m\u202e é 😀 \ud800"))
    }

    @Test
    fun membersHaveTheirTypesAndRanges() {
        val json = "{\"whole\": 5, \"text\": \"x\", \"half\": 0.5, \"below\": -1, \"large\": 9223372036854775807, \"null\": null}"
        val members = Members(parseObject(json.toByteArray())!!)
        assertEquals(5L, members.whole("whole"))
        assertEquals(0.5, members.share("half"), 0.0)
        assertNull(members.textOrNull("null"))
        assertNull(members.textOrNull("missing"))
        val wrong =
            listOf<() -> Unit>(
                { members.whole("text") },
                { members.whole("half") },
                { members.whole("below") },
                { members.whole("large") },
                { members.whole("null") },
                { members.whole("missing") },
                { members.share("whole") },
                { members.text("whole") },
                { members.flag("text") },
                { members.members("whole") },
                { members.ints("whole") },
            )
        for (one in wrong) assertThrows(WrongAnswer::class.java) { one() }
    }
}
