# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""What the package's own client of ``moe_runner`` gets: the Kotlin library must get the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from android_app.tools import steps
from android_app.tools.places import OUT, ROOT
from moe_mobile.base.json_text import json_text
from moe_mobile.runner import Runner, find_runner
from moe_mobile.text.tokenizer import BundleText

_PROMPT = [5, 6, 7, 100, 2000, 31, 8, 9]
_REQUESTS: dict[str, dict[str, Any]] = {
    "greedy": {"command": "generate", "token_ids": _PROMPT, "max_new_tokens": 24},
    "sampled": {
        "command": "generate",
        "token_ids": _PROMPT,
        "max_new_tokens": 24,
        "sampling": {"temperature": 0.8, "top_k": 40, "top_p": 0.9, "seed": 7},
        "ignore_eos": True,
    },
    "score": {"command": "score", "token_ids": [*_PROMPT, 14, 15, 16]},
}
_TEXT = "And it came to pass, that Zoë went up: “day” by day"
_SETTINGS = {"cache": "50%", "threads": 1}


def expected_answers(demo: Path) -> Path:
    """A file with requests and their answers from the demo bundle, and a text with its
    token ids."""
    path = OUT / "expected.json"
    runner = find_runner()

    def ask() -> None:
        packed, state = OUT / "expected-packed", OUT / "state"
        with Runner(runner, environment={"MOE_MOBILE_STATE_DIR": str(state)}) as engine:
            settings = {**_SETTINGS, "packed_dir": str(packed)}
            engine.request("prepare", bundle=str(demo), packed_dir=str(packed))
            engine.request("open", bundle=str(demo), settings=settings)
            answers = {name: engine.request(**request) for name, request in _REQUESTS.items()}
        for answer in answers.values():
            del answer["stats"]
        words = {"text": _TEXT, "token_ids": BundleText(demo).encode(_TEXT)}
        told = {"requests": _REQUESTS, "answers": answers, "words": words}
        path.write_text(json_text(told, indent=1), "utf-8")

    stat = runner.stat()
    client = ROOT / "moe_mobile/runner"
    inputs: list[str | Path] = [
        f"{runner} {stat.st_size} {stat.st_mtime_ns}",
        demo,
        client,
        Path(__file__),
    ]
    return steps.once(path, inputs, ask)
