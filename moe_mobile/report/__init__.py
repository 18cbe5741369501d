# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""Results of `bench` as one self-contained page.

load               what the files hold, however broken
settings, entry    which rows are of one configuration, and what to call it
compare            ratios with their uncertainty, and refusals
figure, overview, latency, timeline, heat, forest    the charts
facts              what a reader needs first
page               all of it in one file
"""
