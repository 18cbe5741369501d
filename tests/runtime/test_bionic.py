# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""Android's own C library has all that the engine asks of a C library, and its apps may do it."""

from __future__ import annotations

import re
from pathlib import Path

from elftools.elf.elffile import ELFFile

from moe_mobile.runtime import build_runtime
from tests.runtime.app_folder import MIN_SDK, allowed_calls, system_calls

ROOT = Path(__file__).resolve().parent.parent.parent
ENGINE = ROOT / "android_app/engine/src/main/cpp"
SYMBOLS = Path(__file__).with_name("bionic_symbols.txt")

# What bionic calls otherwise.
OTHER_NAMES = {
    "__errno_location": "__errno",
    "__getauxval": "getauxval",
    "__libc_start_main": "__libc_init",
}
# What is used with glibc alone, and why.
GLIBC_ONLY = {
    "__libc_single_threaded": "GCC's C++ library",
    "malloc_trim": "base/heap.cpp, which asks which library it is",
}


def levels() -> dict[str, int]:
    """The first API level of each function of bionic that is known to be used."""
    lines = [line for line in SYMBOLS.read_text().splitlines() if not line.startswith("#")]
    return {name: int(level) for name, level, _ in map(str.split, lines)}


def in_bionic(name: str) -> str:
    """The function without what glibc adds: checked copies, and newer standards' scanf."""
    name = re.sub(r"^__isoc\d\d_|^__(?=\w+_chk$)", "", name)
    return OTHER_NAMES.get(name, name.removesuffix("_chk"))


def imported(path: Path) -> set[str]:
    """The symbols that a program takes from glibc, by their versions."""
    with path.open("rb") as file:
        elf = ELFFile(file)
        versions = elf.get_section_by_name(".gnu.version")
        needed = elf.get_section_by_name(".gnu.version_r")
        names = set()
        for index, symbol in enumerate(elf.get_section_by_name(".dynsym").iter_symbols()):
            if symbol.entry.st_shndx != "SHN_UNDEF":
                continue
            version = versions.get_symbol(index).entry.ndx
            if not isinstance(version, int):
                continue  # of a library without versions: ExecuTorch's
            if needed.get_version(version)[1].name.startswith("GLIBC_"):
                names.add(symbol.name)
    return names


def test_functions_are_in_the_oldest_androids_library() -> None:
    used = imported(build_runtime("linux-arm64").folder / "moe_runner")
    assert {"mmap", "pread", "mallopt"} <= used
    known = levels()
    wanted = {in_bionic(name) for name in used - {*GLIBC_ONLY}}
    assert wanted - {*known} == set(), f"look up in bionic's *.map.txt, and add to {SYMBOLS.name}"
    assert {name: known[name] for name in wanted if known[name] > MIN_SDK} == {}


def test_system_calls_by_number_are_allowed_in_apps() -> None:
    named = {
        name
        for path in ENGINE.rglob("*")
        if path.suffix in (".h", ".cpp")
        for name in re.findall(r"\b(?:SYS|__NR)_(\w+)", path.read_text())
    }
    assert {"getrandom", "memfd_create"} <= named
    assert named - allowed_calls() == set()


def test_levels_are_those_of_androids() -> None:
    assert {*system_calls().values()} <= {*range(MIN_SDK, 36)}
    # The facts that the app's runtime rests on.
    assert system_calls()["clone3"] > 34
    assert not {"set_robust_list", "rseq", "faccessat2"} & {*system_calls()}
