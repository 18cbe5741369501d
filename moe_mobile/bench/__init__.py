# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
