# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""The search for a routing that reads little and costs little: what `moe-mobile tune` does.

grid         what is tried
search       scores and judges all of it
processes    on a pool of processes
ray_cluster  on a Ray cluster
choice       the front of quality against loads, and which of it a limit allows
speed        tokens per second of the few that are left
outcome      all of that together, as settings and for scripts
residency    which experts were cached when, for looking at
"""
