# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""The former place of :mod:`moe_mobile.text.detokenizer`, for scripts that still import it."""

from moe_mobile.text.detokenizer import Detokenizer

__all__ = ["Detokenizer"]
