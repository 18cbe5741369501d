# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""The engine in a process of its own, here or on a phone."""

from moe_mobile.runner.client import Runner
from moe_mobile.runner.launch import RUNNER_VARIABLE, Launch, find_runner

__all__ = ["RUNNER_VARIABLE", "Launch", "Runner", "find_runner"]
