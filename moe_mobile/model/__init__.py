# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""Reading Hugging Face Mixture-of-Experts checkpoints: architecture, tensor names, lazy weights."""
