# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""Where things are."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
ANDROID = ROOT / "android_app"
ENGINE, APP = ANDROID / "engine", ANDROID / "app"
JAVA = Path(__file__).resolve().parent / "java"

OUT = ROOT / "build/android"
"""Everything that is built."""
