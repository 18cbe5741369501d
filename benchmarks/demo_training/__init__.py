# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""The script that made the demo checkpoint: ``python -m benchmarks.demo_training --help``."""
