# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""The lab: how routing and caching decisions would have gone."""

from moe_mobile.routing.run import Routed, RoutingRun, RunTotals
from moe_mobile.routing.simulation import Simulation, simulate

__all__ = ["Routed", "RoutingRun", "RunTotals", "Simulation", "simulate"]
