# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""The ground floor: what every room may use, and what knows no room."""
