# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""Runtimes on disk: their folders, when one is complete, how one appears in one step."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from moe_mobile.base import limits
from moe_mobile.base.command_line import command_line
from moe_mobile.base.files import open_regular, sha256_of
from moe_mobile.base.json_field import parse_object
from moe_mobile.base.json_text import json_text
from moe_mobile.base.lock import try_lock
from moe_mobile.errors import (
    BundleCorruptError,
    DiskFullError,
    MoeMobileError,
    RuntimeFailedError,
    UnsupportedError,
    read_error,
    write_error,
)
from moe_mobile.runtime.elf import machine_of

ROOT_VARIABLE = "MOE_MOBILE_RUNTIME_DIR"
"""Environment variable that names another folder for runtimes."""

_MANIFEST = "runtime.json"
_KEPT = 4
# For a build by another process, and between two looks at whether it has ended.
_PATIENCE_S = 3600.0
_PAUSE_S = 0.2
MACHINES = {"arm64-v8a": "aarch64", "x86_64": "x86_64"}
"""Instruction sets as in :class:`moe_mobile.runtime.elf.Elf`, by Android's names."""


@dataclass(frozen=True)
class Recipe:
    """What a runtime is made for and of, known before it is made.

    Args:
        target: ``linux-arm64``, ``linux-x86_64``, ``android-arm64`` or ``app-arm64``.
        abi: Android's name of the instruction set, ``arm64-v8a`` or ``x86_64``.
        version: of moe-mobile.
        executorch: version of ExecuTorch.
        key: digest of all that decides the content; the name of its folder.
        loader: file name of the glibc loader that starts ``moe_runner``, such as
            ``ld-linux-aarch64.so.1``; "" if the phone's own does.
    """

    target: str
    abi: str
    version: str
    executorch: str
    key: str
    loader: str


@dataclass(frozen=True)
class Runtime(Recipe):
    """A folder that a phone can run the engine from.

    Started inside it as ``./LOADER --library-path $PWD/lib ./moe_runner``; if ``loader`` is "",
    as ``./moe_runner``. That of ``app-arm64`` is a part of an APK (docs/phone-runtime.md).

    Args:
        folder: absolute path on this machine.
        files: all files, relative to ``folder``, sorted.
        digest: SHA-256 of what ``sha256sum FILES`` prints.
    """

    folder: Path
    files: tuple[str, ...]
    digest: str


def build_command(target: str) -> str:
    """The command that builds ``target``, for remedies."""
    return command_line("runtime build", target=target)


def target_folder(target: str) -> Path:
    """Where the runtimes of ``target`` lie, each in a folder named by its key."""
    override = os.environ.get(ROOT_VARIABLE)
    if override:
        return Path(override).absolute() / target
    cache = os.environ.get("XDG_CACHE_HOME", "")
    # The XDG base directory specification: relative values are to be ignored.
    root = Path(cache) if os.path.isabs(cache) else Path(os.path.expanduser("~/.cache"))
    return root.absolute() / "moe-mobile" / "runtime" / target


def read_runtime(folder: Path) -> Runtime:
    """Read a finished runtime and check every byte of it.

    Raises BundleCorruptError if it is not what was built, UnsupportedError if that is another
    runtime than its place says or is made of programs for another machine, IoError if it cannot
    be read.
    """
    manifest = folder / _MANIFEST
    again = f"Build it again: `{build_command(folder.parent.name)}`"
    try:
        with open_regular(manifest, again) as file:
            stated = parse_object(file.read(limits.OWN_BYTES)) or {}
        recipe = Recipe(**stated["recipe"])
        files = tuple(stated["files"])
        digest = _digest(folder, files)
    except FileNotFoundError as error:
        raise BundleCorruptError("is missing", file=str(error.filename), remedy=again) from error
    except OSError as error:
        raise read_error(error, folder) from error
    except (ValueError, TypeError, KeyError) as error:
        raise BundleCorruptError(
            "is not the manifest of a runtime", file=manifest, remedy=again
        ) from error
    if digest != stated.get("digest"):
        raise BundleCorruptError(
            "has other content than when it was built",
            file=folder,
            remedy=f"Build it again: `{build_command(recipe.target)}`",
        )
    _check_machine(folder, recipe, files)
    return Runtime(**vars(recipe), folder=folder, files=files, digest=digest)


def _check_machine(folder: Path, recipe: Recipe, files: Sequence[str]) -> None:
    """Folders are copied between machines: one in the wrong place must not reach a phone."""
    target = folder.parent.name
    remedy = f"Build it again: `{build_command(target)}`"
    if (recipe.target, recipe.key) != (target, folder.name):
        raise UnsupportedError(
            f"holds the runtime {recipe.target}/{recipe.key}", file=folder, remedy=remedy
        )
    for name in files:
        try:
            machine = machine_of(folder / name)
        except OSError as error:
            raise read_error(error, folder / name) from error
        if machine not in (None, MACHINES.get(recipe.abi)):
            raise UnsupportedError(
                f"is made for {machine}, and its runtime is for {recipe.abi}",
                file=folder / name,
                remedy=remedy,
            )


def runtimes_of(target: str) -> list[Runtime]:
    """The sound runtimes of ``target``, newest first."""
    found = []
    for folder in _newest_first(target_folder(target)):
        with contextlib.suppress(MoeMobileError):
            found.append(read_runtime(folder))
    return found


def publish(recipe: Recipe, fill: Callable[[Path, Path], None]) -> Runtime:
    """The runtime of ``recipe``: the one that is there, else what ``fill`` makes.

    ``fill(content, scratch)`` writes the files of the runtime into the first of two empty folders.
    Only when it returns does the runtime appear, in one step; otherwise nothing is left. Several
    processes may call this at once: one makes it, the others wait and take it.

    Raises ReadOnlyError, DiskFullError or IoError if the folder cannot be written, and what
    ``fill`` raises.
    """
    place = target_folder(recipe.target)
    final = place / recipe.key
    with contextlib.suppress(MoeMobileError):
        return read_runtime(final)
    try:
        with _locked(place):
            with contextlib.suppress(MoeMobileError):
                return read_runtime(final)
            _make(recipe, place, fill)
            _prune(place, keep=final)
    except OSError as error:
        raise _cannot_write(error, place) from error
    return read_runtime(final)


def place_files(content: Path, files: Mapping[str, Path], notice: str) -> None:
    """Copy files to their names in a runtime, programs executable, and write its NOTICE."""
    for name, path in files.items():
        target = content / name
        target.parent.mkdir(exist_ok=True)
        shutil.copyfile(path, target)
        target.chmod(0o755 if "/" not in name else 0o644)
    (content / "NOTICE").write_text(notice, encoding="utf-8")


def sum_line(path: Path, name: str) -> bytes:
    """What `sha256sum` prints of a file, under that name."""
    return f"{sha256_of(path)}  {name}\n".encode()


def _make(recipe: Recipe, place: Path, fill: Callable[[Path, Path], None]) -> None:
    # Under the lock nobody else is at work here: what lies there was interrupted.
    work = place / ".partial"
    shutil.rmtree(work, ignore_errors=True)
    try:
        content, scratch = work / "content", work / "scratch"
        content.mkdir(parents=True)
        scratch.mkdir()
        fill(content, scratch)
        files = sorted(
            path.relative_to(content).as_posix() for path in content.rglob("*") if path.is_file()
        )
        stated = {
            "recipe": asdict(recipe),
            "digest": _digest(content, files),
            "files": files,
        }
        (content / _MANIFEST).write_text(json_text(stated, indent=2) + "\n")
        final = place / recipe.key
        shutil.rmtree(final, ignore_errors=True)  # a damaged one
        content.rename(final)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _digest(folder: Path, files: Sequence[str]) -> str:
    whole = hashlib.sha256()
    for name in files:
        whole.update(sum_line(folder / name, name))
    return whole.hexdigest()


def _prune(place: Path, *, keep: Path) -> None:
    """Remove all but the newest runtimes: every change of the engine leaves one."""
    others = [folder for folder in _newest_first(place) if folder != keep]
    for folder in others[_KEPT - 1 :]:
        shutil.rmtree(folder, ignore_errors=True)


def _newest_first(place: Path) -> list[Path]:
    manifests = []
    for manifest in place.glob(f"*/{_MANIFEST}"):
        with contextlib.suppress(OSError):
            manifests.append((manifest.stat().st_mtime_ns, manifest.parent))
    return [folder for _, folder in sorted(manifests, reverse=True)]


@contextlib.contextmanager
def _locked(place: Path) -> Iterator[None]:
    place.mkdir(parents=True, exist_ok=True)
    with (place / ".lock").open("a") as lock:
        until = time.monotonic() + _PATIENCE_S
        while not try_lock(lock, place):
            if time.monotonic() > until:
                raise RuntimeFailedError(
                    "another process has been building this runtime for a long time",
                    file=place,
                    remedy="Check whether it makes progress. If it does not, end it",
                )
            time.sleep(_PAUSE_S)
        yield


def _cannot_write(error: OSError, place: Path) -> MoeMobileError:
    # Not error.filename: of a copy that is its source.
    typed = write_error(error, place)
    another = f"name another folder with {ROOT_VARIABLE}"
    if isinstance(typed, DiskFullError):
        remedy = f"Free some space there, or {another}"
    elif os.environ.get(ROOT_VARIABLE):
        remedy = f"{ROOT_VARIABLE} names it: correct or unset that variable"
    else:
        remedy = f"Make that a folder that you may write to, or {another}"
    return type(typed)(typed.cause, file=typed.file, remedy=remedy)
