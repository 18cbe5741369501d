# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""The ground floor: every room may use it; it imports no other room."""
