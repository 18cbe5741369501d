# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""How long a phone is waited for, how much of what it says is kept (docs/phones.md), and how much
of a file is read.

A phone may go silent, send a byte now and then, print without end, or lie. So times count from the
last thing that arrived whole: an answer, a piece of a file that the phone says it has, an event of
the engine that is ahead of the one before. Single bytes change nothing.

Use these as attributes of this module: tests make them short.
"""

from __future__ import annotations

SERVER_S = 20.0
"""adb's server answers a question, all of it, within so many seconds."""

ANSWER_S = 60.0
"""A script ends within so many seconds, unless its caller gives it more or less."""

PIECE_S = 60.0
"""The phone says that it has a piece of a file within so many seconds. On a slow connection a piece
gets as small as LEAST_PIECE: what is slower is treated as a connection that broke."""

LEAST_PIECE = 64 << 10
"""Bytes of a piece on the slowest connection. Two breaks with less in between count as nothing."""

FRUITLESS = 3
"""Tries in a row after which a deployment ends, if the phone does not list more than before."""

SILENCE_S = 60.0
"""An engine on a phone that says nothing for so long is looked at there. After twice this time it
must have computed meanwhile."""

LONGEST_SILENCE_S = 3600.0
"""Silence that an engine is allowed even if it seems to compute, in seconds."""

LEAST_RATE = 100_000
"""Bytes a second at which a phone takes a long request, after SILENCE_S."""

OUTPUT_BYTES = 8 << 20
"""What a script may print, in bytes; our longest listing has a hundred for each file."""

LINE_BYTES = 16 << 10
"""A line of what is read line by line but is no answer: last words, samples, steps of a script."""

ANSWER_BYTES = 4 << 20
"""An answer of the engine that holds nothing for each token."""

TOKEN_BYTES = 4 << 10
"""What an answer may hold in addition for each token, path or time that was asked for."""

TRACE_BYTES = 64 << 20
"""An answer with router logits, which are asked for in parts; no other is longer either."""

VALUES = 8 << 20
"""Values in an answer or a file of JSON: they take more memory than their text."""

EVENTS = 100_000
"""Steps of progress and other events before one answer; tokens come on top."""

STAGES = 64
"""Stages of progress before one answer."""

TOLD = 2000
"""Characters of a text from a phone that become part of an error."""

TEXT_BYTES = 64 << 20
"""A text or the chat messages that are given in a file: more than any context takes."""

PIPE_S = 60.0
"""A pipe that is named as a file brings or takes something within so many seconds, or ends.
Standard input and output have no such limit: somebody may be typing, or reading."""

TYPED_BYTES = 1 << 20
"""A line of a conversation that is typed, or comes from a pipe."""

LINES_BYTES = 256 << 20
"""A file of JSON lines that a later command continues: results, scores, the journal of an export.
`report` reads no more of results either."""

CONFIG_BYTES = 4 << 20
"""``config.json`` and ``generation_config.json``."""

INDEX_BYTES = 64 << 20
"""The index of a checkpoint in several files: a hundred bytes for each tensor."""

CHECKPOINT_FILE_BYTES = 256 << 20
"""Any other file of a checkpoint but its weights: multiples of what the largest tokenizers have."""

OWN_BYTES = 1 << 20
"""A small file: the manifest of a runtime, a virtual phone's settings and record, an NDK's
revision."""

PROGRAM_BYTES = 64 << 20
"""A program or library that is read whole, such as a file of glibc."""
