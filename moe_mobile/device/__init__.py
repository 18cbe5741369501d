# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""Where the engine runs: this machine, or phones behind adb."""
