// Copyright the moe-mobile authors.
// SPDX-License-Identifier: Apache-2.0

package org.moemobile.engine

import java.io.File
import org.junit.Assert.assertEquals
import org.junit.Assert.assertThrows
import org.junit.Rule
import org.junit.Test
import org.junit.rules.TemporaryFolder

class BundleSummaryTest {
    @get:Rule val folder = TemporaryFolder()

    @Test
    fun theDemoBundle() {
        val demo = File(System.getProperty("moe.demo"))
        val found = BundleSummary.read(demo)
        assertEquals("demo", found.name)
        assertEquals(listOf(6, 32, 4, 1024), listOf(found.layers, found.experts, found.topK, found.contextLength))
        assertEquals(demo.walk().filter { it.isFile }.sumOf { it.length() }, found.bytes)
    }

    @Test
    fun whatIsNotABundleIsRefused() {
        assertThrows(MoeException.Io::class.java) { BundleSummary.read(folder.root) }
        for (text in listOf("", "[", "[]", "{}", "{\"format\": \"moe-mobile-bundle\"}")) {
            folder.root.resolve("bundle.json").writeText(text)
            assertThrows(MoeException.BundleInvalid::class.java) { BundleSummary.read(folder.root) }
        }
    }
}
