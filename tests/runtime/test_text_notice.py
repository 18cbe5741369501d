# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""What a runner with text is linked with: named in its NOTICE, and permissive."""

from __future__ import annotations

import subprocess
import sys

from tests.text.rust import CRATE, fetch


def test_the_notice_names_every_crate() -> None:
    """The program refuses a crate that is under no permissive licence."""
    fetch()
    command = [sys.executable, str(CRATE / "write_notice.py")]
    made = subprocess.run(command, capture_output=True, text=True)
    assert made.stderr == ""
    assert made.stdout == (CRATE / "NOTICE").read_text(encoding="utf-8"), "write it again"
    assert "  tokenizers 0.22" in made.stdout
