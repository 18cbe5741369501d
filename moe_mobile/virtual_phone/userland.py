# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""A phone's read-only root file system: Android's layout around Debian's toybox and mksh."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

from moe_mobile.errors import UnsupportedError
from moe_mobile.virtual_phone import scripts
from moe_mobile.virtual_phone.settings import SHELL_ID

QEMU_ARM64 = ("qemu-aarch64-static", "qemu-aarch64")
_SHELLS = ("/usr/lib/diet/bin/mksh", "mksh")
# Missing in Debian's toybox; its cat takes twice as long.
_FROM_BUSYBOX = ("awk", "cat", "dd", "diff", "expr", "gzip", "less", "stty", "tr", "vi")
_LIBRARIES = "system/lib64"
_LOADER = "/system/lib64/ld.so"


def require_programs(*, arm64: bool) -> None:
    """Check that what phones are made of is installed.

    Raises:
        UnsupportedError: something is missing; it says what to install.
    """
    packages = {"toybox": "toybox", "mksh": "mksh", "busybox": "busybox-static"}
    missing = [package for program, package in packages.items() if shutil.which(program) is None]
    if arm64 and not any(map(shutil.which, QEMU_ARM64)):
        missing.append("qemu-user-static")
    if missing:
        raise UnsupportedError(
            f"a virtual phone needs programs that are not installed: {', '.join(missing)}",
            remedy=f"apt-get install {' '.join(missing)}",
        )


def build_root(root: Path, properties: dict[str, str], *, arm64: bool) -> None:
    """Fill the empty folder `root`."""
    for folder in (
        "system/bin", _LIBRARIES, "system/etc", "data", "dev", "proc", "sys", "virtual", "etc",
    ):  # fmt: skip
        (root / folder).mkdir(parents=True)
    for link, target in (("bin", "system/bin"), ("sdcard", "data/local/tmp")):
        (root / link).symlink_to(target)
    programs = root / "system/bin"
    _install(root, _which("toybox"), "toybox")
    _install(root, _which("busybox"), "busybox")
    _install(root, _shell(), "sh")
    toybox = set(_words("toybox")) - {"sh", "toybox"}
    for name in sorted(toybox - set(_FROM_BUSYBOX)):
        (programs / name).symlink_to("toybox")
    for name in _FROM_BUSYBOX:
        (programs / name).symlink_to("busybox")
    lines = [f"{key}={value}" for key, value in properties.items()]
    (root / "system/build.prop").write_text("\n".join(lines) + "\n")
    listing = [f"[{key}]: [{value}]" for key, value in sorted(properties.items())]
    (root / "virtual/properties").write_text("\n".join(listing) + "\n")
    (root / "virtual/log").touch()
    os.mkfifo(root / "virtual/requests")
    (root / "virtual/requests").chmod(0o666)
    for name, text in scripts.all_scripts(arm64=arm64).items():
        path = programs / name
        path.unlink(missing_ok=True)
        path.write_text(text)
        path.chmod(0o755)
    passwd = f"root:x:0:0::/:/system/bin/sh\nshell:x:{SHELL_ID}:{SHELL_ID}::/:/system/bin/sh\n"
    (root / "etc/passwd").write_text(passwd)
    (root / "etc/group").write_text(f"root:x:0:\nshell:x:{SHELL_ID}:\n")


def _which(program: str) -> Path:
    found = shutil.which(program)
    assert found is not None, f"{program} has just disappeared"
    return Path(found).resolve()


def _shell() -> Path:
    # The static one needs no libraries and starts faster.
    return next(_which(name) for name in _SHELLS if shutil.which(name))


def _words(*command: str) -> list[str]:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()


def _install(root: Path, program: Path, name: str) -> None:
    """Copy a program, and its libraries to where only this phone's programs look for them.

    Programs made for this machine do not find its loader in a phone, as on a real one; those of
    /system/bin have their loader's path changed (the new one is shorter).
    """
    data = program.read_bytes()
    listing = subprocess.run(["ldd", str(program)], capture_output=True, text=True)
    found = [Path(path) for path in re.findall(r"(/\S+) \(0x", listing.stdout)]
    for library in found if listing.returncode == 0 else []:
        if re.match(r"ld-linux|ld-", library.name):
            old = os.fsencode(library)
            new = _LOADER.encode().ljust(len(old), b"\0")
            data = data.replace(old + b"\0", new + b"\0", 1)
            target = root / _LOADER.lstrip("/")
        else:
            target = root / _LIBRARIES / library.name
        if not target.exists():
            shutil.copyfile(library, target)
            target.chmod(0o755)
    path = root / "system/bin" / name
    path.write_bytes(data)
    path.chmod(0o755)
