// Copyright the moe-mobile authors.
// SPDX-License-Identifier: Apache-2.0

package org.moemobile.app

import androidx.compose.ui.test.assertIsDisplayed
import androidx.compose.ui.test.hasText
import androidx.compose.ui.test.junit4.v2.createAndroidComposeRule
import androidx.compose.ui.test.onNodeWithText
import org.junit.Rule
import org.junit.Test
import org.junit.runner.RunWith
import org.robolectric.RobolectricTestRunner
import org.robolectric.annotation.Config

@RunWith(RobolectricTestRunner::class)
@Config(sdk = [35])
class BundlesScreenTest {
    @get:Rule val compose = createAndroidComposeRule<MainActivity>()

    @Test
    fun theDemoBundleIsThereOnTheFirstStart() {
        compose.waitUntil(300_000) { compose.onAllNodes(hasText("demo")).fetchSemanticsNodes().isNotEmpty() }
        compose.onNodeWithText("qwen3_moe · 32 experts a layer, 4 used · 8 MiB").assertIsDisplayed()
    }
}
