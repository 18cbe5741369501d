# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""The Rust library of the app's runner, built for tests."""

from __future__ import annotations

import functools
import json
import os
import shutil
import subprocess
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from moe_mobile.bundle import read_manifest
from moe_mobile.errors import BundleInvalidError, MoeMobileError, UsageError

ROOT = Path(__file__).resolve().parent.parent.parent
CRATE = ROOT / "android_app/engine/src/main/rust"
TARGET = Path(os.environ.get("MOE_NATIVE_BUILD_ROOT", ROOT / "build")) / "rust"
ARM64 = "aarch64-unknown-linux-gnu"
KINDS_OF_FAILURE: dict[int, type[MoeMobileError]] = {1: UsageError, 2: BundleInvalidError}


def cargo(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Runs cargo on the crate; skips without it."""
    if shutil.which("cargo") is None:
        pytest.skip("the app's text needs cargo, which is not installed")
    command = ["cargo", *arguments, "--manifest-path", str(CRATE / "Cargo.toml")]
    environment = os.environ | {
        "CARGO_TARGET_DIR": str(TARGET),
        "CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER": "aarch64-linux-gnu-gcc",
    }
    return subprocess.run(command, capture_output=True, text=True, env=environment)


def fetch() -> None:
    """Skips where the crates cannot be had. That Cargo.lock is not up to date is a failure."""
    fetched = cargo("fetch", "--locked")
    assert "because --locked was passed" not in fetched.stderr, fetched.stderr
    if fetched.returncode != 0:
        pytest.skip(f"cargo cannot fetch its crates: {fetched.stderr[-500:]}")


@functools.cache
def built(target: str | None = None) -> Path:
    """The folder with ``libmoe_text.a`` and ``examples/lines``. Skips where the crates that it is
    made of cannot be had."""
    fetch()
    only = () if target is None else ("--target", target)
    made = cargo("build", "--locked", "--lib", "--example", "lines", *only)
    if made.returncode != 0:
        pytest.fail(f"cargo build failed:\n{made.stderr[-20000:]}", pytrace=False)
    return TARGET / (target or "") / "debug"


class RustText:
    """A bundle's texts as the library has them."""

    def __init__(self, bundle: Path, *, emulator: Sequence[str] = (), folder: Path | None = None):
        model = read_manifest(bundle).model
        program = (folder or built()) / "examples/lines"
        command = [*emulator, str(program), str(bundle)]
        command += [str(model.vocab_size), str(model.context_length)]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, encoding="utf-8"
        )
        # None of what tests ask takes more than seconds.
        self._end = threading.Timer(600, self._process.kill)
        self._end.start()

    def __enter__(self) -> RustText:
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._end.cancel()
        assert self._process.wait(timeout=600) == 0

    def ask(self, do: str, **members: Any) -> Any:
        """An answer. Raises as Python does."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps({"do": do, **members}) + "\n")
        self._process.stdin.flush()
        answer = json.loads(self._process.stdout.readline())
        if "kind" in answer:
            raise KINDS_OF_FAILURE[answer["kind"]](
                answer["cause"],
                file=answer["file"] or None,
                setting=answer["setting"] or None,
                remedy=answer["remedy"],
            )
        (value,) = answer.values()
        return value

    def encode(
        self, prompt: str | Sequence[Mapping[str, Any]], values: Mapping[str, Any] | None = None
    ) -> list[int]:
        """As :meth:`moe_mobile.text.tokenizer.BundleText.encode`."""
        ids: list[int] = self.ask("encode", **_members(prompt, values))
        return ids

    def render(
        self, messages: Sequence[Mapping[str, Any]], values: Mapping[str, Any] | None = None
    ) -> str:
        """As :meth:`moe_mobile.text.chat.ChatTemplate.render`."""
        text: str = self.ask("render", **_members(messages, values))
        return text


def _members(
    prompt: str | Sequence[Mapping[str, Any]], values: Mapping[str, Any] | None
) -> dict[str, Any]:
    if isinstance(prompt, str):
        return {"text": prompt}
    members: dict[str, Any] = {"messages": prompt}
    return members if values is None else members | {"chat_template_kwargs": values}
