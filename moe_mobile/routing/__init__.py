# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""The lab: how routing and caching decisions would have gone."""
