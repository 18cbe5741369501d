# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""Results of `bench` as one self-contained page.

load, rows         what the files hold, however broken
settings, entry    which rows are of one configuration, and what to call it
compare, student   ratios with their uncertainty, and refusals
figure, overview, latency, timeline, forest    the charts
page               all of it in one file
"""
