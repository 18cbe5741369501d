# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""Run Mixture-of-Experts language models that do not fit in memory."""

__version__ = "0.1.0"

__all__ = ["__version__"]
