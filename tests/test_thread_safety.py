# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""Clang's thread safety analysis of the engine: who may touch what under which lock.

The engine's sources are analysed as they are compiled for the sanitizers.
"""

from __future__ import annotations

import json
import re
import shlex
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import NativeBuild
from tests.includes import ENGINE, included, sources

# With these, what breaks a rule does not compile.
OPTIONS = ("-Wthread-safety", "-Werror")

RULES = """
#include "base/mutex.h"
class Account {
 public:
  void add(int amount) {
    const moe_mobile::MutexLock lock(&mutex_);
    change(amount);
  }
  void wait_for(int amount) {
    const moe_mobile::MutexLock lock(&mutex_);
    while (balance_ < amount) changed_.wait(&mutex_);
  }
  %s
 private:
  void change(int amount) REQUIRES(mutex_) { balance_ += amount; }
  moe_mobile::Mutex mutex_;
  moe_mobile::CondVar changed_;
  int balance_ GUARDED_BY(mutex_) = 0;
};
"""
BREACHES = {
    "reads without the lock": "int balance() { return balance_; }",
    "writes without the lock": "void clear() { balance_ = 0; }",
    "calls without the lock": "void take() { change(-1); }",
    "waits without the lock": "void wait() { changed_.wait(&mutex_); }",
    "keeps the lock": "void leave() { mutex_.lock(); }",
    "locks twice": "void twice() { mutex_.lock(); add(1); mutex_.lock(); }",
}


def _check(text: str) -> str:
    """What clang finds wrong with the locks of a source; empty if nothing."""
    command = ["clang++", "-std=c++17", f"-I{ENGINE}", *OPTIONS, "-fsyntax-only", "-xc++", "-"]
    result = subprocess.run(command, input=text, capture_output=True, text=True)
    return result.stderr if result.returncode != 0 else ""


def _commands(build: NativeBuild) -> dict[Path, str]:
    """How each source is compiled, most of them as parts of a file that includes several."""
    commands: dict[Path, str] = {}
    for one in json.loads((build.directory / "compile_commands.json").read_text()):
        file = Path(one["file"])
        parts = re.findall(r'^#include "(/.*)"$', file.read_text(), re.M) or [file]
        commands |= {Path(part): one["command"] for part in parts}
    return commands


def test_sanitized_builds_check_the_engine(native_build: Callable[[str], NativeBuild]) -> None:
    for flavour in ("address", "thread"):
        commands = _commands(native_build(flavour))
        annotated = [
            ENGINE / source
            for source in sources()
            if "base/thread_annotations.h" in included(str(source)) and ENGINE / source in commands
        ]
        assert ENGINE / "cache/read_lanes.cpp" in annotated
        for source in annotated:
            words = shlex.split(commands[source])
            assert Path(words[0]).name == "clang++"
            assert set(OPTIONS) <= set(words)


def test_code_that_keeps_the_rules_passes() -> None:
    assert _check(RULES % "") == ""


@pytest.mark.parametrize("breach", BREACHES.values(), ids=BREACHES)
def test_code_that_breaks_a_rule_is_found(breach: str) -> None:
    assert "-Wthread-safety" in _check(RULES % breach)
