// Copyright the moe-mobile authors.
// SPDX-License-Identifier: Apache-2.0

package org.moemobile.engine

import kotlinx.coroutines.runBlocking
import org.junit.Test

/** `python -m android_app.tools test --slow` */
class RoundsSlowTest {
    @Test fun processesLeaveNothing() = runBlocking { Rounds.ofProcesses(10_000) }

    @Test fun answersLeaveNothing() = runBlocking { Rounds.inOneProcess(10_000) }
}
