# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""Clang's thread safety analysis of the engine: who may touch what under which lock."""

from __future__ import annotations

import itertools
import json
import os
import shlex
import shutil
import subprocess
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.conftest import NativeBuild
from tests.includes import ENGINE, included, sources

# Of the compiler's arguments, the ones that say what the code means.
MEANING = ("-D", "-I", "-std=")

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


def _check(arguments: list[str], source: str, text: str = "") -> str:
    """What clang finds wrong with the locks of a source ("-": `text`); empty if nothing."""
    command = ["clang++", "-fsyntax-only", "-Wthread-safety", "-Werror", "-xc++"]
    result = subprocess.run(
        [*command, *arguments, source], input=text, capture_output=True, text=True
    )
    return result.stderr if result.returncode != 0 else ""


def _check_snippet(text: str) -> str:
    return _check(["-std=c++17", f"-I{ENGINE}"], "-", text)


@pytest.fixture(autouse=True)
def _needs_clang() -> None:
    if shutil.which("clang++") is None:
        pytest.skip("needs clang++: apt-get install clang")


def _arguments(command: str) -> list[str]:
    words = shlex.split(command)
    arguments = [word for word in words if word.startswith(MEANING)]
    for option, folder in itertools.pairwise(words):
        if option == "-isystem":
            arguments += [option, folder]
    return arguments


def test_the_engine_keeps_its_thread_rules(native_build: Callable[[str], NativeBuild]) -> None:
    database = json.loads((native_build("plain").directory / "compile_commands.json").read_text())
    commands = {Path(entry["file"]): entry["command"] for entry in database}
    annotated = [
        ENGINE / source
        for source in sources()
        if "base/thread_annotations.h" in included(str(source)) and ENGINE / source in commands
    ]
    assert ENGINE / "cache/read_lanes.cpp" in annotated
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        findings = pool.map(
            lambda source: _check(_arguments(commands[source]), str(source)), annotated
        )
        assert [finding for finding in findings if finding] == []


def test_code_that_keeps_the_rules_passes() -> None:
    assert _check_snippet(RULES % "") == ""


@pytest.mark.parametrize("breach", BREACHES.values(), ids=BREACHES)
def test_code_that_breaks_a_rule_is_found(breach: str) -> None:
    assert "-Wthread-safety" in _check_snippet(RULES % breach)
