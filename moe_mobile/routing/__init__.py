# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""The lab: how routing and caching decisions would have gone.

What is public here is loaded on first use, so that commands which only read a routing's name do
not import numpy.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from moe_mobile.routing.run import Routed, RoutingRun, RunTotals
    from moe_mobile.routing.simulation import Simulation, simulate

__all__ = ["Routed", "RoutingRun", "RunTotals", "Simulation", "simulate"]

_MODULES = {
    "Routed": "run",
    "RoutingRun": "run",
    "RunTotals": "run",
    "Simulation": "simulation",
    "simulate": "simulation",
}


def __getattr__(name: str) -> object:
    if name not in _MODULES:
        raise AttributeError(f"module 'moe_mobile.routing' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"moe_mobile.routing.{_MODULES[name]}"), name)
    globals()[name] = value
    return value
