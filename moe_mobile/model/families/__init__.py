# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""One small adapter per model family; ``moe_mobile.model.registry`` lists them."""
