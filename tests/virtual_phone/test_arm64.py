# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""Phones whose processor this machine's is not."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.phones import HOME, StartPhone, adb, shell

COMPILER = shutil.which("aarch64-linux-gnu-gcc")
SYSROOT = Path("/usr/aarch64-linux-gnu/lib")
PROGRAM = """
#include <stdio.h>
int main(int count, char** words) {
  printf("%s %d\\n", words[count - 1], (int)sizeof(void*));
  return 3;
}
"""


@pytest.mark.skipif(COMPILER is None, reason="no gcc-aarch64-linux-gnu to make a program with")
def test_a_program_and_its_bundled_loader(phone: StartPhone, tmp_path: Path) -> None:
    assert COMPILER is not None
    folder = tmp_path / "folder"
    (folder / "lib").mkdir(parents=True)
    (tmp_path / "program.c").write_text(PROGRAM)
    source = tmp_path / "program.c"
    subprocess.run([COMPILER, "-o", folder / "program", source], check=True)
    subprocess.run([COMPILER, "-static", "-o", folder / "static", source], check=True)
    shutil.copy(SYSROOT / "ld-linux-aarch64.so.1", folder)
    shutil.copy(SYSROOT / "libc.so.6", folder / "lib")
    one = phone(abi="arm64-v8a", ram=512 << 20)
    assert adb("-s", one.serial, "push", folder, HOME).returncode == 0
    loader = "./ld-linux-aarch64.so.1 --library-path $PWD/lib ./program hello"
    script = f"cd {HOME}/folder; {loader}; echo $?; ./static hi; echo $?; taskset 1 {loader}"
    result = shell(one, script)
    assert result.stdout == "hello 8\n3\nhi 8\n3\nhello 8\n"
    assert result.returncode == 3


def test_it_says_it_is_arm64(phone: StartPhone) -> None:
    one = phone(abi="arm64-v8a")
    script = "getprop ro.product.cpu.abi; uname -m; grep -c asimd /proc/cpuinfo"
    words = shell(one, script).stdout.split()
    assert words[:2] == ["arm64-v8a", "aarch64"]
    assert int(words[2]) >= 1
