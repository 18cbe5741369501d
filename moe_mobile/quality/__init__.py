# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""What a routing costs: scoring texts with the live cache, and files of such scores."""
