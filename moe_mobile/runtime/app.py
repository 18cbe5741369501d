# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""A runtime as the native libraries of an Android app, which starts the engine as a process.

Android unpacks only files named ``lib*.so`` from an APK, and lets an app start programs from the
folder that they are unpacked to, from no other. So programs and libraries get such names, and a
JSON file says what each of them is. docs/phone-runtime.md says how an app starts the engine.
"""

from __future__ import annotations

import hashlib
import re
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

from moe_mobile.base.json_text import json_text
from moe_mobile.base.progress import Progress
from moe_mobile.errors import UnsupportedError, write_error
from moe_mobile.runtime.cross import build_arm64
from moe_mobile.runtime.elf import read_elf
from moe_mobile.runtime.folder import MACHINES, Recipe, Runtime, build_command, publish, sum_line
from moe_mobile.runtime.glibc import LIBC, Rewritten, without_refused_calls
from moe_mobile.runtime.notice import notice

TARGET = "app-arm64"

_RUNNER = "moe_runner"
# Google Play refuses apps that phones with such pages cannot load. No x86-64 phone has them.
_PAGE_BYTES = {"arm64-v8a": 16384, "x86_64": 4096}


def build_app(progress: Progress) -> Runtime:
    """The arm64 runtime laid out for an app, built unless it is there already.

    Raises what building ``linux-arm64`` does, and what :func:`lay_out` does.
    """
    base = build_arm64(progress)

    def fill(content: Path, _: Path) -> None:
        shutil.copytree(laid, content, dirs_exist_ok=True)

    with tempfile.TemporaryDirectory(prefix="moe-mobile-app-") as scratch:
        laid = Path(scratch)
        lay_out(base, laid)
        recipe = Recipe(
            target=TARGET,
            abi=base.abi,
            version=base.version,
            executorch=base.executorch,
            key=_key(laid),
            loader=f"lib/{base.abi}/{_app_name(base.loader, base)}",
        )
        return publish(recipe, fill)


def lay_out(
    runtime: Runtime,
    folder: Path,
    *,
    runner: Path | None = None,
    runner_notice: str = "",
) -> None:
    """Write what an APK holds of a runtime into ``folder``, a new one, under its names in the APK.

    ``lib/ABI/*.so`` are the programs and libraries, ``assets/runtime.json`` says what each of them
    is, ``assets/NOTICE`` by whom. The runtime is ``linux-arm64``, or ``linux-x86_64`` for tests:
    in the copies of glibc's loader and libc.so.6 there are no system calls that Android refuses to
    apps. Or it is ``android-arm64``, which is one program.

    ``runner``: a program to take in place of the runtime's ``moe_runner``. It may need no other
    libraries than that. ``runner_notice``: a text to add to NOTICE, for one with text that of
    ``android_app/engine/src/main/rust/NOTICE``.

    Raises UnsupportedError if glibc's files are not those that are known, if a file cannot be
    loaded with pages of 16 KiB, or if the runner needs what is not there; IoError (or
    ReadOnlyError, DiskFullError) if a file cannot be read or written.
    """
    sources = {Path(name).name: runtime.folder / name for name in runtime.files if name != "NOTICE"}
    if runner is not None:
        sources[_RUNNER] = runner
    _check(runtime, sources)
    names = {name: _app_name(name, runtime) for name in sources}
    glibc = (runtime.loader, LIBC) if runtime.loader else ()
    rewritten = {name: without_refused_calls(sources[name]) for name in glibc}
    text = notice(sources, static=not glibc, names=names, rewritten=rewritten)
    if runner_notice:
        text += f"\n{'-' * 72}\n{runner_notice}"
    try:
        _write(runtime, folder, sources, names, rewritten, text)
    except OSError as error:
        raise write_error(error, folder) from error


def _write(
    runtime: Runtime,
    folder: Path,
    sources: Mapping[str, Path],
    names: Mapping[str, str],
    rewritten: Mapping[str, Rewritten],
    text: str,
) -> None:
    native, assets = folder / "lib" / runtime.abi, folder / "assets"
    native.mkdir(parents=True, exist_ok=True)
    assets.mkdir(exist_ok=True)
    for name, source in sources.items():
        target = native / names[name]
        if name in rewritten:
            target.write_bytes(rewritten[name].content)
        else:
            shutil.copyfile(source, target)
        target.chmod(0o755)
    programs = (_RUNNER, runtime.loader)
    stated = {
        "version": runtime.version,
        "abi": runtime.abi,
        "loader": names.get(runtime.loader),
        "runner": names[_RUNNER],
        "libraries": {name: names[name] for name in sorted(names) if name not in programs},
    }
    (assets / "runtime.json").write_text(json_text(stated, indent=2) + "\n", encoding="utf-8")
    (assets / "NOTICE").write_text(text, encoding="utf-8")


def _app_name(name: str, runtime: Runtime) -> str:
    """The name in the APK: ``libmoe_c.so`` of ``libc.so.6``. Without the prefix, Android's own
    loader would take ours when another library of the app asks for ``libc.so``."""
    if name == runtime.loader:
        return "libmoe_loader.so"
    stem = name.removeprefix("moe_").partition(".so")[0].removeprefix("lib")
    return f"libmoe_{re.sub(r'[^A-Za-z0-9_]', '_', stem.replace('+', 'x'))}.so"


def _check(runtime: Runtime, sources: Mapping[str, Path]) -> None:
    """Whether a phone can load the files, and finds all that they need."""
    for path in sources.values():
        elf = read_elf(path)
        if elf.machine != MACHINES[runtime.abi]:
            raise UnsupportedError(
                f"is made for {elf.machine}, and the app's runtime is for {runtime.abi}",
                file=path,
                remedy="Build it for that",
            )
        pages = _PAGE_BYTES[runtime.abi]
        if elf.alignment < pages:
            raise UnsupportedError(
                f"is aligned for pages of {elf.alignment} bytes, and phones with pages of {pages} "
                "bytes cannot load it",
                file=path,
                remedy=f"Link it with `-Wl,-z,max-page-size={pages}`",
            )
        # Without a loader of its own the phone's libraries are used.
        missing = {*elf.needed} - {*sources} if runtime.loader else set()
        if missing:
            raise UnsupportedError(
                f"needs {', '.join(sorted(missing))}, and the runtime has no such library",
                file=path,
                remedy="Link that statically, or build the runtime again: "
                f"`{build_command(runtime.target)}`",
            )


def _key(folder: Path) -> str:
    whole = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        whole.update(sum_line(path, path.relative_to(folder).as_posix()))
    return whole.hexdigest()[:16]
