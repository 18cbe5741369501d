# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""Folders of known content on a phone: only what is missing is sent, and every byte is verified.

inventory  what is there, in one round trip
plan       what to send, to copy and to keep; whether it fits
lock       one command at a time
transfer   bytes over parallel streams, going on inside a file
remote     scripts on the device, under locks
attempt    one way through a plan
deploy     the steps, from nothing to a folder that is complete
"""
