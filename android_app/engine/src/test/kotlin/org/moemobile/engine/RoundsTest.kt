// Copyright the moe-mobile authors.
// SPDX-License-Identifier: Apache-2.0

package org.moemobile.engine

import org.junit.Test

class RoundsTest {
    @Test fun processesLeaveNothing() = inMinutes { Rounds.ofProcesses(30) }

    @Test fun answersLeaveNothing() = inMinutes { Rounds.inOneProcess(1000) }
}
