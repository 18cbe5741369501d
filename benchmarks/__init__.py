# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""What measures and trains, for developers; not in the wheel. Run from the checkout's root."""
