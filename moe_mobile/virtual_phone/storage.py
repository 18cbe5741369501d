# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""Where /data lies: an ext4 image, a tmpfs, or a folder of the machine's own file system."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from moe_mobile.base.command_line import command_line
from moe_mobile.errors import UnsupportedError, UsageError, write_error
from moe_mobile.virtual_phone.linux import (
    CLONE_NEWNS,
    MS_PRIVATE,
    MS_REC,
    MS_REMOUNT,
    mount,
    unshare,
)
from moe_mobile.virtual_phone.settings import SHELL_ID

_DEFAULT_SIZE = 16 << 30
_SHELL_HOME = "local/tmp"
_BALLOON = "balloon"


@dataclass
class Storage:
    """/data of a phone.

    Attributes:
        kind: "image" (ext4 on a loop device), "tmpfs" or "folder".
        size: bytes; None if it is the machine's own file system.
    """

    kind: str
    size: int | None

    def fill(self, data: str, full: bool) -> None:
        """Take every free byte of the mounted `data`, or give them back.

        Raises:
            UnsupportedError: the file system is the machine's own.
        """
        if self.kind == "folder":
            raise UnsupportedError(
                "this phone's /data is a folder of this machine, which cannot be filled up",
                setting="full",
                remedy=f"Start it with `{command_line('virtual-phone start', flash_size='SIZE')}`",
            )
        if self.kind == "tmpfs":
            taken = shutil.disk_usage(data).used
            size = max(taken, 4096) if full else self.size
            mount(None, data, None, MS_REMOUNT, f"size={size}")
            return
        balloon = os.path.join(data, _BALLOON)
        if not full:
            Path(balloon).unlink(missing_ok=True)
            return
        file = os.open(balloon, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            step = 1 << 40
            end = os.fstat(file).st_size
            # Halving steps find the last free block; a refused step may keep what it got.
            while step >= 4096:
                try:
                    os.posix_fallocate(file, end, step)
                    end += step
                except OSError:
                    end = max(end, os.fstat(file).st_size)
                    step //= 2
        finally:
            os.close(file)


def make_storage(folder: Path, size: int | None, *, privileged: bool) -> Storage:
    """Make `folder`/data; as root, in a mount namespace of this process's own.

    A tmpfs is mounted by the owner of the phone's namespaces.

    Raises:
        UsageError: a file of this machine cannot be so large.
        IoError: the image cannot be written.
    """
    data = folder / "data"
    data.mkdir()
    if privileged and _mount_image(folder / "flash.img", data, size):
        storage = Storage("image", size or _DEFAULT_SIZE)
    elif size is not None:
        return Storage("tmpfs", size)
    else:
        storage = Storage("folder", None)
    make_shell_home(data, owned=privileged)
    return storage


def make_shell_home(data: Path, *, owned: bool) -> None:
    """/data/local/tmp, writable for the shell user."""
    home = data / _SHELL_HOME
    home.mkdir(parents=True)
    if owned:
        os.chown(home, SHELL_ID, SHELL_ID)
    home.chmod(0o771)


def _mount_image(image: Path, target: Path, size: int | None) -> bool:
    """Make and mount an ext4 image; False if this machine cannot."""
    try:
        with image.open("wb") as file:
            file.truncate(size or _DEFAULT_SIZE)
    except OSError as error:
        if error.errno != errno.EFBIG:
            raise write_error(error, image) from error
        if size is None:
            return False
        raise UsageError(
            "this machine's file system has no files of that size",
            setting="flash_size",
            remedy="Use less",
        ) from error
    make = ["mkfs.ext4", "-q", "-F", "-m", "0", "-O", "^has_journal", "-E", "nodiscard"]
    unshare(CLONE_NEWNS)
    mount("none", "/", None, MS_REC | MS_PRIVATE)
    attach = ["losetup", "--find", "--show", "--direct-io=on", str(image)]
    try:
        if subprocess.run([*make, str(image)], capture_output=True).returncode != 0:
            return False
        result = subprocess.run(attach, capture_output=True, text=True)
        if result.returncode != 0:
            return False
        device = result.stdout.strip()
        try:
            mount(device, str(target), "ext4")
        except OSError:
            return False
        finally:
            # Detaches it now if it was not mounted, else with the last unmount.
            subprocess.run(["losetup", "--detach", device], capture_output=True)
    except FileNotFoundError:
        return False
    (target / "lost+found").rmdir()
    return True
