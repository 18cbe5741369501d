# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""The engine in an app: what an APK holds of it, started as an app does, under Android's policy."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import shutil
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from moe_mobile.errors import CancelledError, MoeMobileError, UnsupportedError
from moe_mobile.runner import Launch, Runner
from moe_mobile.runtime import Runtime, build_runtime, find_runtime, lay_out
from moe_mobile.runtime.glibc import LIBC
from tests.bundles import DemoMaker
from tests.cli.program import ok_json
from tests.runtime.app_folder import App, allowed_calls, install, launch, started
from tests.text.rust import CRATE

HERE = Path(__file__).resolve().parent
QEMU = "qemu-aarch64-static"
TOKENS = [5, 6, 7, 8, 9, 10, 11, 12]
# Sums of float32 are in different orders on the two machines; see tests/device/test_end_to_end.py.
FP32_WORST = 1e-3

# What glibc calls on x86-64 for a call that arm64 does not have.
X86_64_ONLY = {
    "access": "faccessat",
    "mkdir": "mkdirat",
    "rename": "renameat",
    "rmdir": "unlinkat",
    "unlink": "unlinkat",
}
# What Android 10 allows on x86-64 alone.
X86_64_POLICY = ("arch_prctl", "readlink")

# Calls that qemu may not know by name.
NUMBERS = {"293": "rseq", "435": "clone3", "439": "faccessat2"}
# By what glibc is known to be killed on arm64; with glibc 2.37 and newer, by clone3 too.
FATAL = {"set_robust_list", "rseq", "faccessat2"}


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A program that runs another one under Android 10's policy for apps."""
    folder = tmp_path_factory.mktemp("policy")
    allowed = allowed_calls()
    assert {*X86_64_ONLY.values()} <= allowed
    names = sorted({*allowed, *X86_64_ONLY, *X86_64_POLICY})
    (folder / "allowed.h").write_text("".join(f"SYS_{name},\n" for name in names))
    program = folder / "app_policy"
    strict = ["-std=c11", "-D_GNU_SOURCE", "-Wall", "-Wextra", "-Werror", f"-I{folder}"]
    subprocess.run(["cc", *strict, "-o", program, HERE / "app_policy.c"], check=True)
    return program


@pytest.fixture(scope="module")
def emulator() -> str:
    found = shutil.which(QEMU)
    assert found is not None, "apt-get install qemu-user-static"
    return found


def work(bundle: Path, program: Launch | None) -> dict[str, Any]:
    """What a process computes that is asked for everything an app asks."""
    with Runner(program) as runner:

        def cancel(_: int) -> None:
            runner.cancel()

        runner.request("prepare", bundle=str(bundle))
        settings = {"cache": "50%", "threads": 4, "lanes": 4}
        opened = runner.request("open", bundle=str(bundle), settings=settings)
        answer = runner.request("generate", token_ids=TOKENS, max_new_tokens=24, ignore_eos=True)
        scored = runner.request("score", token_ids=[*TOKENS, *answer["token_ids"]])
        bench = runner.request("bench", n_prompt=4, n_gen=3, repetitions=2)
        runner.resize("25%")
        assert (runner.residency().states == 2).any()  # some are ready
        with pytest.raises(CancelledError):
            runner.request("generate", token_ids=TOKENS, max_new_tokens=500, on_token=cancel)
        runner.request("measure_misses", count=2)
        verified = runner.request("verify", bundle=str(bundle))
    assert (opened["fallbacks"], opened["settings"]["residency"]) == ([], "slots")
    assert len(bench["samples"]) == 2
    assert verified["packed"]["complete"]
    return {
        "tokens": answer["token_ids"],
        "log_probabilities": np.array(scored["log_probabilities"]),
    }


def test_glibc_as_it_is_is_killed_under_the_policy(policy: Path, tmp_path: Path) -> None:
    runtime = find_runtime("x86_64")
    for command in (
        ["/bin/true"],
        [f"{runtime.folder}/{runtime.loader}", "--library-path", f"{runtime.folder}/lib",
         f"{runtime.folder}/moe_runner"],
    ):  # fmt: skip
        result = subprocess.run([policy, *command], stdin=subprocess.DEVNULL, capture_output=True)
        assert result.returncode == -signal.SIGSYS, result.stderr


def test_the_apps_engine_lives_under_the_policy(
    policy: Path, tmp_path: Path, demo_bundle: DemoMaker
) -> None:
    app = install(find_runtime("x86_64"), tmp_path)
    bundle = demo_bundle()
    with Runner(app.launch(policy)) as runner:
        runner.request("digest", paths=[])
        status = Path(f"/proc/{runner.pid}/status").read_text()
        assert re.search(r"^Seccomp:\s2$", status, re.MULTILINE)  # there is a filter
        assert re.search(r"^Name:\smoe_runner$", status, re.MULTILINE)
    shutil.rmtree(bundle / ".packed", ignore_errors=True)
    there = work(bundle, app.launch(policy))
    here = work(bundle, None)
    assert there["tokens"] == here["tokens"]
    assert np.array_equal(there["log_probabilities"], here["log_probabilities"])


@pytest.fixture(scope="module")
def arm64(tmp_path_factory: pytest.TempPathFactory) -> App:
    return install(build_runtime("linux-arm64"), tmp_path_factory.mktemp("arm64"))


def calls(log: Path) -> set[str]:
    """The system calls in what qemu wrote. Threads write into each other's lines."""
    found = re.findall(r"\b\d+ (?:([a-z]\w*)\(|Unknown syscall (\d+))", log.read_text("latin1"))
    names = {name or NUMBERS.get(number, number) for name, number in found}
    assert {"openat", "futex", "pread64", "exit_group"} <= names
    return names


def test_the_arm64_app_computes_what_this_machine_does(
    arm64: App, emulator: str, tmp_path: Path, demo_bundle: DemoMaker
) -> None:
    bundle = demo_bundle("fp32")
    log = tmp_path / "calls"
    there = work(bundle, arm64.launch(emulator, "-strace", "-D", log))
    here = work(bundle, None)
    assert there["tokens"] == here["tokens"]
    differences = np.abs(there["log_probabilities"] - here["log_probabilities"])
    assert np.max(differences) <= FP32_WORST
    # On a phone of the oldest Android it would not be killed for any of its calls.
    assert calls(log) - allowed_calls() == set()


def test_the_arm64_runtime_would_be_killed_in_an_app(
    emulator: str, tmp_path: Path, demo_bundle: DemoMaker
) -> None:
    runtime = build_runtime("linux-arm64")
    log = tmp_path / "calls"
    loader = [f"{runtime.folder}/{runtime.loader}", "--library-path", f"{runtime.folder}/lib"]
    program = [*loader, f"{runtime.folder}/moe_runner", "--attached"]
    command = started(tmp_path, emulator, "-strace", "-D", log, *program)
    with Runner(launch(command)) as runner:
        runner.request("open", bundle=str(demo_bundle()), settings={"cache": "50%"})
        runner.request("generate", token_ids=TOKENS, max_new_tokens=2)
    refused = calls(log) - allowed_calls()
    assert refused - {"clone3"} == FATAL


def test_a_killed_engine_leaves_what_the_next_one_takes(
    arm64: App, emulator: str, demo_bundle: DemoMaker
) -> None:
    bundle = demo_bundle()
    shutil.rmtree(bundle / ".packed", ignore_errors=True)

    def generate(runner: Runner, on_token: Callable[[int], None] | None = None) -> list[int]:
        runner.request("open", bundle=str(bundle), settings={"cache": "50%"})
        answer = runner.request(
            "generate", token_ids=TOKENS, max_new_tokens=12, ignore_eos=True, on_token=on_token
        )
        return list(answer["token_ids"])

    with Runner(arm64.launch(emulator)) as runner:
        with pytest.raises(MoeMobileError):
            runner.request(
                "prepare",
                bundle=str(bundle),
                progress=lambda stage, *_: os.kill(runner.pid, signal.SIGKILL),
            )
        assert runner.has_ended
    with Runner(arm64.launch(emulator)) as runner:
        with pytest.raises(MoeMobileError):
            generate(runner, lambda _: os.kill(runner.pid, signal.SIGKILL))
        assert runner.has_ended
    tokens = []
    for _ in range(2):
        with Runner(arm64.launch(emulator)) as runner:
            tokens.append(generate(runner))
    assert len(tokens[0]) == 12
    assert tokens[0] == tokens[1]


def test_an_apk_holds_files_that_android_unpacks(tmp_path: Path) -> None:
    runtime = build_runtime("app-arm64")
    native = runtime.folder / "lib/arm64-v8a"
    assert {Path(name).parent.as_posix() for name in runtime.files} == {"assets", "lib/arm64-v8a"}
    files = {path.name for path in native.iterdir()}
    # Shorter and of fewer characters than Android allows, and not the name of a library of its own.
    assert all(re.fullmatch(r"libmoe_[A-Za-z0-9_]{1,60}\.so", name) for name in files)
    assert all(os.access(path, os.X_OK) for path in native.iterdir())
    stated = json.loads((runtime.folder / "assets/runtime.json").read_text())
    assert {*stated} == {"version", "abi", "loader", "runner", "libraries"}
    assert (stated["version"], stated["abi"]) == (runtime.version, "arm64-v8a")
    assert runtime.loader == f"lib/arm64-v8a/{stated['loader']}"
    named = [stated["loader"], stated["runner"], *stated["libraries"].values()]
    assert sorted(named) == sorted(files)
    # All but the two that are changed are those of the runtime, under the names that are needed.
    base = build_runtime("linux-arm64").folder
    for name, file in stated["libraries"].items():
        same = (native / file).read_bytes() == (base / "lib" / name).read_bytes()
        assert same == (name != LIBC), name
    assert (native / stated["runner"]).read_bytes() == (base / "moe_runner").read_bytes()
    # As the command makes it, and again with the same bytes.
    told = ok_json("runtime", "build", "--target", "app-arm64")
    assert (told["folder"], told["digest"]) == (str(runtime.folder), runtime.digest)
    lay_out(build_runtime("linux-arm64"), tmp_path)
    again = {path: (tmp_path / path).read_bytes() for path in runtime.files}
    assert again == {path: (runtime.folder / path).read_bytes() for path in runtime.files}


def test_the_notice_says_what_was_changed_and_where_sources_are(tmp_path: Path) -> None:
    text = (build_runtime("app-arm64").folder / "assets/NOTICE").read_text()
    assert re.search(r"libmoe_loader\.so \(ld-linux-aarch64\.so\.1\), .*: .*rseq at 0x", text)
    assert re.search(r"libmoe_c\.so \(libc\.so\.6\), .* 2\.\d+.*: .*faccessat2 at 0x", text)
    assert re.search(r"source package glibc 2\.\d+", text)
    assert "GNU LESSER GENERAL PUBLIC LICENSE" in text
    # Nothing was changed in what a shell of a phone gets.
    assert "Changes" not in (build_runtime("linux-arm64").folder / "NOTICE").read_text()


def test_a_runner_of_androids_own_library_takes_the_place(tmp_path: Path) -> None:
    runtime = dataclasses.replace(
        build_runtime("linux-arm64"), target="android-arm64", loader="", files=("moe_runner",)
    )
    app = install(runtime, tmp_path)
    assert [path.name for path in app.native.iterdir()] == ["libmoe_runner.so"]
    assert (app.stated["loader"], app.stated["libraries"]) == (None, {})
    assert app.command()[-2:] == [str(app.native / "libmoe_runner.so"), "--attached"]
    assert "Android NDK" in (tmp_path / "apk/assets/NOTICE").read_text()


# What Rust's library calls when it opens a file.
PROGRAM = """
#define _GNU_SOURCE
#include <fcntl.h>
#include <sys/stat.h>
int main(void) {
  struct statx found;
  return statx(AT_FDCWD, "/", 0, STATX_MODE, &found) == 0 && S_ISDIR(found.stx_mode) ? 7 : 1;
}
"""


def compiled(folder: Path, *options: str | Path, compiler: str = "cc") -> Path:
    source, program = folder / "program.c", folder / "program"
    source.write_text(PROGRAM)
    subprocess.run([compiler, source, "-o", program, *options], check=True)
    return program


def test_a_runner_that_was_built_otherwise(tmp_path: Path, policy: Path) -> None:
    runner = compiled(tmp_path)
    app = install(find_runtime("x86_64"), tmp_path / "app", runner=runner)
    assert (app.native / "libmoe_runner.so").read_bytes() == runner.read_bytes()
    assert subprocess.run(app.command(policy)).returncode == 7


def test_a_runner_brings_a_notice(tmp_path: Path) -> None:
    brought = (CRATE / "NOTICE").read_text(encoding="utf-8")
    runtime, runner = find_runtime("x86_64"), compiled(tmp_path)
    lay_out(runtime, tmp_path / "apk", runner=runner, runner_notice=brought)
    text = (tmp_path / "apk/assets/NOTICE").read_text(encoding="utf-8")
    assert "moe-mobile, with nlohmann/json" in text
    assert text.endswith("-\n" + brought)


def refusal(runtime: Runtime, folder: Path, runner: Path) -> str:
    with pytest.raises(UnsupportedError) as caught:
        lay_out(runtime, folder / "out", runner=runner)
    assert caught.value.file == str(runner)
    assert caught.value.remedy
    assert not (folder / "out").exists()
    return caught.value.cause


def test_runners_that_no_phone_could_start(tmp_path: Path) -> None:
    arm64 = build_runtime("linux-arm64")
    assert "is made for x86_64" in refusal(arm64, tmp_path, compiled(tmp_path))
    pages = compiled(tmp_path, "-Wl,-z,max-page-size=4096", compiler="aarch64-linux-gnu-gcc")
    assert "pages of 16384" in refusal(arm64, tmp_path, pages)
    other = tmp_path / "libother.so"
    compiled(tmp_path, "-shared", "-fPIC", "-Wl,-soname,libother.so").rename(other)
    needs = compiled(tmp_path, "-Wl,--no-as-needed", other)
    assert "needs libother.so" in refusal(find_runtime("x86_64"), tmp_path, needs)
