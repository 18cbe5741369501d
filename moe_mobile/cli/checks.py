# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""The checks of `doctor`; they report, and never raise."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.metadata
import mmap
import os
import pathlib
import platform
import resource
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from typing import Literal

from moe_mobile.base.pins import pinned
from moe_mobile.base.text import size
from moe_mobile.errors import MoeMobileError
from moe_mobile.runner import find_runner

Status = Literal["ok", "warn", "fail"]

PINNED = ("torch", "executorch", "torchao")
"""Packages of which this one needs one version."""

EXPORTS = (
    ("OLMoE-1B-7B", 2_045_108 << 10),
    ("Mixtral-8x7B", 2_756_552 << 10),
    ("Qwen3-30B-A3B", 3_823_164 << 10),
)
"""Peak memory in bytes of exports in the default quantization on two cores: the larger of two runs
of `moe-mobile export --random-weights NAME --layers 1 OUT`, and for the last one the whole model
(docs/findings/data/export-whole.json), which took 4 % more than its one layer. It is about 1 GB and
9 to 11 bytes for each weight of the largest program: the output head, or an expert of Mixtral.
Layers are made one after the other (tests/export/test_cost.py)."""

_REINSTALL = "Install the package again: `make venv` in a checkout, else `pip install`"
_GIB = 1 << 30
_BLOCK = 16384
_WANTED_FILES = 8192


@dataclasses.dataclass(frozen=True)
class Check:
    """What was checked, what was found, and what to do if something is wrong."""

    name: str
    status: Status
    detail: str
    remedy: str | None = None


def run_checks(folder: pathlib.Path) -> Iterator[Check]:
    """All checks; those of the disk concern the file system of `folder`."""
    yield Check("python", "ok", platform.python_version())  # pip refuses too old ones
    for package in PINNED:
        yield _package(package, pinned(package))
    yield _native_module()
    yield _runner()
    yield _cpu(pathlib.Path("/proc/cpuinfo"))
    yield memory(pathlib.Path("/proc/meminfo"))
    yield _open_files(resource.getrlimit(resource.RLIMIT_NOFILE)[1])
    yield _state()
    yield _disk(folder)
    yield _direct_io(folder)


def _package(name: str, wanted: str) -> Check:
    try:
        found = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return Check(name, "fail", "not installed", f"pip install {name}=={wanted}")
    # "1.2.3+cpu" is another build of version 1.2.3.
    if found.partition("+")[0] == wanted:
        return Check(name, "ok", found)
    remedy = f"pip install {name}=={wanted}, then install moe-mobile again"
    return Check(name, "fail", f"{found}, but {wanted} is needed", remedy)


def _native_module() -> Check:
    # In a process of its own: a library built for another machine may crash on import.
    command = [sys.executable, "-P", "-c", "import moe_mobile._native"]
    return _process("native module", command, "loads")


def _runner() -> Check:
    try:
        binary = find_runner()
    except MoeMobileError as error:
        return Check("moe_runner", "fail", error.cause, error.remedy)
    return _process("moe_runner", [str(binary)], "starts")


def _process(name: str, command: list[str], success: str) -> Check:
    try:
        result = subprocess.run(command, input="", capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired) as error:
        return Check(name, "fail", str(error), _REINSTALL)
    if result.returncode == 0:
        return Check(name, "ok", success)
    lines = result.stderr.strip().splitlines() or [f"exit code {result.returncode}"]
    return Check(name, "fail", lines[-1], _REINSTALL)


def _cpu(cpuinfo: pathlib.Path) -> Check:
    words: set[str] = set()
    with contextlib.suppress(OSError):
        for line in cpuinfo.read_text("utf-8", errors="replace").splitlines():
            name, _, value = line.partition(":")
            if name.strip().lower() in ("flags", "features"):
                words.update(value.split())
    known = ("avx2", "fma", "avx512f", "avx512_vnni", "avx_vnni", "asimddp", "i8mm", "sve")
    features = [word for word in known if word in words]
    detail = f"{platform.machine()}, {os.cpu_count()} cores, {' '.join(features) or 'baseline'}"
    if "avx2" in words or "asimddp" in words:
        return Check("cpu", "ok", detail)
    return Check("cpu", "warn", detail, "Expect low speed: XNNPACK has fast code for AVX2, dotprod")


def memory(meminfo: pathlib.Path) -> Check:
    """What there is, next to what exports took."""
    available = None
    with contextlib.suppress(OSError, ValueError, IndexError):
        for line in meminfo.read_text("ascii").splitlines():
            if line.startswith("MemAvailable:"):
                available = int(line.split()[1]) * 1024
    if available is None:
        return Check("memory", "warn", "unknown", "Give --cache a size instead of auto")
    took = ", ".join(f"{name} {size(peak, 'up')}" for name, peak in EXPORTS)
    detail = f"{size(available, 'down')} available; exports took at most: {took}"
    large = [name for name, peak in EXPORTS if peak > available]
    if not large:
        return Check("memory", "ok", detail)
    remedy = f"Free some to export {', '.join(large)}; generate runs in less with a small --cache"
    return Check("memory", "warn", detail, remedy)


def _open_files(hard: int) -> Check:
    if hard == resource.RLIM_INFINITY or hard >= _WANTED_FILES:
        shown = "unlimited" if hard == resource.RLIM_INFINITY else str(hard)
        return Check("open files", "ok", f"up to {shown}")
    remedy = "Each slot keeps a file open: raise it with `ulimit -Hn`, or use a smaller --cache"
    return Check("open files", "warn" if hard >= 256 else "fail", f"only {hard}", remedy)


def _state() -> Check:
    """The secret without which nothing is packed, and no bundle opened."""
    name = "state folder"
    try:
        from moe_mobile import _native

        _native.check_machine_secret()
    except ImportError:
        return Check(name, "fail", "the native module does not load", _REINSTALL)
    except MoeMobileError as error:
        place = f"{error.file}: " if error.file else ""
        return Check(name, "fail", f"{place}{error.cause}", error.remedy)
    return Check(name, "ok", "holds this machine's secret")


def _disk(folder: pathlib.Path) -> Check:
    try:
        free = shutil.disk_usage(folder).free
    except OSError as error:
        return Check("disk", "fail", f"{folder}: {error.strerror}", "Choose another --dir")
    if free < 5 * _GIB:
        remedy = "A bundle and its packed weights take twice the model's size"
        return Check("disk", "warn", f"{size(free, 'down')} free in {folder}", remedy)
    return Check("disk", "ok", f"{size(free, 'down')} free in {folder}")


def _direct_io(folder: pathlib.Path) -> Check:
    """O_DIRECT may be refused, or give other bytes than were written (some FUSE file systems)."""
    name = "direct reads"
    remedy = "Reads go through the page cache there: keep bundles on ext4, xfs, f2fs or btrfs"
    pattern = bytes(range(256)) * (_BLOCK // 256)
    try:
        descriptor, path = tempfile.mkstemp(prefix=".moe-mobile-doctor-", dir=folder)
    except OSError as error:
        return Check(name, "fail", f"{folder}: {error.strerror}", "Choose another --dir")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(pattern)
            file.flush()
            os.fsync(file.fileno())
        direct = os.open(path, os.O_RDONLY | os.O_DIRECT)
        try:
            with mmap.mmap(-1, _BLOCK) as buffer:  # page-aligned, as O_DIRECT demands
                count = os.preadv(direct, [buffer], 0)
                same = count == _BLOCK and buffer[:] == pattern
        finally:
            os.close(direct)
    except OSError as error:
        return Check(name, "warn", f"O_DIRECT is refused: {error.strerror}", remedy)
    finally:
        os.unlink(path)
    if same:
        return Check(name, "ok", "O_DIRECT works")
    return Check(name, "warn", "O_DIRECT gives wrong bytes", remedy)
