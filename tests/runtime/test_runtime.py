# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""The engine for phones: whole, started by what it brings along, and found by its version."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from moe_mobile.errors import BundleCorruptError, IoError, UnsupportedError
from moe_mobile.runtime import Runtime, build_runtime, find_runtime
from moe_mobile.runtime.folder import read_runtime
from tests.bundles import BundleMaker
from tests.cli.program import failed, ok_json
from tests.files import endless, pipe, sparse

TARGETS = {"linux-x86_64": "x86_64", "linux-arm64": "arm64-v8a"}
QEMU = "qemu-aarch64-static"


@pytest.fixture(scope="module", params=TARGETS)
def runtime(request: pytest.FixtureRequest) -> Runtime:
    """Of each target; built unless an earlier run left it."""
    return build_runtime(request.param)


def test_a_phone_gets_the_built_runtime(runtime: Runtime) -> None:
    found = find_runtime(TARGETS[runtime.target])
    assert found == runtime
    assert {"moe_runner", runtime.loader, "NOTICE"} <= set(runtime.files)
    listed = ok_json("runtime", "list")["runtimes"]
    assert [one["digest"] for one in listed if one["folder"] == str(runtime.folder)] == [
        runtime.digest
    ]


def test_every_library_that_is_needed_is_there(runtime: Runtime) -> None:
    names = {Path(name).name for name in runtime.files}
    for name in runtime.files:
        path = runtime.folder / name
        if path.read_bytes()[:4] != b"\x7fELF":
            continue
        told = subprocess.run(
            ["readelf", "--dynamic", str(path)], capture_output=True, text=True, check=True
        ).stdout
        assert set(re.findall(r"\(NEEDED\).*\[(.*)\]", told)) <= names, name
        # A path of the machine that built it would be searched on the phone.
        for paths in re.findall(r"\((?:RUNPATH|RPATH)\).*\[(.*)\]", told):
            assert all(entry.startswith("$ORIGIN") for entry in paths.split(":")), name


def test_it_starts_where_there_is_nothing_else(runtime: Runtime, tmp_path: Path) -> None:
    root = tmp_path / "root"
    shutil.copytree(runtime.folder, root)
    emulator = []
    if runtime.abi == "arm64-v8a":
        found = shutil.which(QEMU)
        assert found is not None, "apt-get install qemu-user-static"
        shutil.copy(found, root / QEMU)
        emulator = [f"/{QEMU}"]
    command = ["chroot", str(root), *emulator, f"/{runtime.loader}", "--library-path", "/lib"]
    if os.geteuid() != 0:
        command = ["unshare", "--user", "--map-root-user", *command]
    result = subprocess.run(
        [*command, "/moe_runner"],
        input='{"id": 1, "command": "digest", "paths": ["/NOTICE"]}\n',
        capture_output=True,
        text=True,
        timeout=1200,
    )
    assert result.returncode == 0, result.stderr
    answer = json.loads(result.stdout.splitlines()[-1])
    assert answer["files"][0]["bytes"] == (runtime.folder / "NOTICE").stat().st_size


def test_arm64_loads_with_large_pages() -> None:
    runtime = build_runtime("linux-arm64")
    for name in set(runtime.files) - {"NOTICE"}:
        told = subprocess.run(
            ["readelf", "--program-headers", "--wide", str(runtime.folder / name)],
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        alignments = re.findall(r"^\s*LOAD\s.*\s(0x[0-9a-f]+)$", told, re.MULTILINE)
        assert alignments, name
        assert all(int(alignment, 16) >= 16384 for alignment in alignments), (name, alignments)


def test_the_oldest_arm64_processor_and_a_kernel_are_enough(
    tmp_path: Path, bundle: BundleMaker
) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root may mount /proc in a folder")
    root = tmp_path / "root"
    shutil.copytree(build_runtime("linux-arm64").folder, root)
    source = bundle("qwen3_moe", "fp32")
    shutil.copytree(source, root / "bundle", ignore=shutil.ignore_patterns(".packed"))
    emulator = shutil.which(QEMU)
    assert emulator is not None, "apt-get install qemu-user-static"
    shutil.copy(emulator, root / QEMU)
    for folder in ("proc", "sys"):
        (root / folder).mkdir()
    # A Cortex-A53 knows the first ARMv8 and nothing more: no dot products, no atomics of ARMv8.1.
    start = (
        f"mount -t proc proc '{root}/proc' && mount --rbind /sys '{root}/sys' && exec chroot "
        f"'{root}' /{QEMU} -cpu cortex-a53 /ld-linux-aarch64.so.1 --library-path /lib /moe_runner"
    )
    requests = (
        {"id": 1, "command": "open", "bundle": "/bundle", "settings": {"cache": "50%"}},
        {"id": 2, "command": "generate", "token_ids": [5, 6, 7], "max_new_tokens": 4},
    )
    result = subprocess.run(
        ["unshare", "--mount", "--pid", "--fork", "sh", "-c", start],
        input="".join(json.dumps(request) + "\n" for request in requests),
        capture_output=True,
        text=True,
        timeout=1200,
    )
    assert result.returncode == 0, result.stdout[-2000:] + result.stderr[-2000:]
    opened, generated = (
        event for event in map(json.loads, result.stdout.splitlines()) if event["event"] == "result"
    )
    assert opened["fallbacks"] == []
    assert opened["settings"]["residency"] == "slots"
    assert len(generated["token_ids"]) == 4
    assert generated["stats"]["totals"]["misses"] > 0


def test_a_file_that_was_changed_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MOE_MOBILE_RUNTIME_DIR", str(tmp_path))
    whole = find_runtime("x86_64")
    assert whole.folder.is_relative_to(tmp_path)
    content = (whole.folder / "moe_runner").read_bytes()
    (whole.folder / "moe_runner").write_bytes(content + b"x")
    with pytest.raises(BundleCorruptError):
        read_runtime(whole.folder)
    # The runtime of this machine costs nothing to make again.
    assert find_runtime("x86_64").digest == whole.digest
    assert (whole.folder / "moe_runner").read_bytes() == content


@pytest.mark.parametrize(
    ("name", "lay"),
    [
        *(("runtime.json", lay) for lay in (pipe, endless, sparse)),
        *(("moe_runner", lay) for lay in (pipe, endless)),  # a file of any length is hashed
    ],
)
def test_files_of_a_runtime_that_are_none(
    name: str, lay: Callable[[Path], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MOE_MOBILE_RUNTIME_DIR", str(tmp_path))
    folder = tmp_path / "linux-x86_64" / "0123456789abcdef"
    folder.mkdir(parents=True)
    recipe = dict.fromkeys(("abi", "version", "executorch", "loader"), "") | {
        "target": "linux-x86_64", "key": folder.name
    }  # fmt: skip
    stated = {"recipe": recipe, "files": ["moe_runner"], "digest": ""}
    if name != "runtime.json":
        (folder / "runtime.json").write_text(json.dumps(stated))
    lay(folder / name)
    assert ok_json("runtime", "list")["runtimes"] == []
    with pytest.raises((BundleCorruptError, IoError)) as caught:
        read_runtime(folder)
    assert caught.value.file == str(folder / name)


def test_without_a_cross_compiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MOE_MOBILE_RUNTIME_DIR", str(tmp_path))
    monkeypatch.setenv("PATH", str(Path(sys.executable).parent))
    error = failed(3, "runtime", "build", "--target", "linux-arm64")
    assert "apt-get install g++-aarch64-linux-gnu" in error["remedy"]
    assert list(tmp_path.rglob("moe_runner")) == []


@pytest.mark.parametrize("abi", ["arm64-v8a", "armeabi-v7a"])
def test_without_a_runtime(abi: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MOE_MOBILE_RUNTIME_DIR", str(tmp_path))
    with pytest.raises(UnsupportedError) as caught:
        find_runtime(abi)
    assert caught.value.remedy


def test_building_twice_gives_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    digests: list[str] = []
    build: Callable[[str], Runtime] = build_runtime
    for folder in ("one", "two"):
        monkeypatch.setenv("MOE_MOBILE_RUNTIME_DIR", str(tmp_path / folder))
        digests.append(build("linux-x86_64").digest)
    assert digests[0] == digests[1]
