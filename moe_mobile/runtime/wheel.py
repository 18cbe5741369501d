# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""ExecuTorch for another processor, out of its wheel."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

from moe_mobile.base.files import sha256_of
from moe_mobile.base.pins import executorch_version
from moe_mobile.base.progress import Progress
from moe_mobile.errors import IoError, UnsupportedError
from moe_mobile.runtime.folder import target_folder

# One wheel for all, whichever Python runs this: equal inputs give equal runtimes. The hash is of
# the pinned version's; a new version needs the new hash.
_WHEEL = "executorch-{}-cp311-cp311-manylinux_2_28_aarch64.whl"
WHEEL_SHA256 = "8ee02348a3ea80ddf770822911ebf78da616b73afce0fbaaa79f23311c88c66a"

_PIP_ARGUMENTS = (
    "--no-deps",
    "--only-binary=:all:",
    "--platform=manylinux_2_28_aarch64",
    "--implementation=cp",
    "--python-version=3.11",
    "--abi=cp311",
    "--require-hashes",
    "--no-input",
    "--disable-pip-version-check",
    "--quiet",
)

# What the cross build and the runtime take of it.
_PARTS = ("executorch/include/", "executorch/lib/", "executorch/share/")


def fetch_wheel(scratch: Path, progress: Progress) -> Path:
    """The aarch64 wheel of ExecuTorch, downloaded with pip unless it is cached.

    pip decides where from: its index, proxy and certificate settings hold. The content is checked
    against the hash above, by pip and in the cache.

    Raises IoError if it cannot be downloaded, UnsupportedError if there is neither pip nor uv.
    """
    version = executorch_version()
    wheel = _WHEEL.format(version)
    cached = target_folder("wheels") / wheel
    if cached.is_file() and sha256_of(cached) == WHEEL_SHA256:
        return cached
    progress("downloading ExecuTorch for arm64", 0, 1)
    requirements = scratch / "requirements.txt"
    requirements.write_text(
        f"executorch=={version} --hash=sha256:{WHEEL_SHA256}\n", encoding="utf-8"
    )
    command = [*_pip(), "download", *_PIP_ARGUMENTS]
    result = subprocess.run(
        [*command, "--dest", str(scratch), "--requirement", str(requirements)],
        capture_output=True,
        text=True,
        errors="replace",
    )
    downloaded = scratch / wheel
    if result.returncode != 0 or not downloaded.is_file():
        tail = "\n".join(f"    {line}" for line in result.stderr.strip().splitlines()[-6:])
        raise IoError(
            f"executorch {version} for arm64 could not be downloaded; pip says:\n{tail}",
            file=wheel,
            remedy="Check the connection and pip's index settings, or download that file with "
            f"another machine and put it into {cached.parent}",
        )
    progress("downloading ExecuTorch for arm64", 1, 1)
    cached.parent.mkdir(parents=True, exist_ok=True)
    partial = cached.with_suffix(".partial")
    shutil.copyfile(downloaded, partial)
    partial.rename(cached)
    return cached


def unpack_wheel(wheel: Path, folder: Path) -> Path:
    """Unpack headers, libraries and licence into ``folder``; returns its ``executorch``."""
    with zipfile.ZipFile(wheel) as archive:
        names = [
            name
            for name in archive.namelist()
            if name.startswith(_PARTS) or ".dist-info/licenses/" in name
        ]
        archive.extractall(folder, names)
    return folder / "executorch"


def _pip() -> list[str]:
    if importlib.util.find_spec("pip") is not None:
        return [sys.executable, "-m", "pip"]
    # Environments made by uv have no pip; uv can run one.
    uv = shutil.which("uv")
    if uv is not None:
        return [uv, "tool", "run", "--quiet", "pip"]
    raise UnsupportedError(
        "downloading ExecuTorch for arm64 needs pip or uv, and neither is installed",
        remedy=f"Run `{sys.executable} -m ensurepip`",
    )
