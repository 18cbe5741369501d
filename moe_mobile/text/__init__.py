# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""Text in and out of a model: its tokenizer, its chat template, and text from a token stream."""
