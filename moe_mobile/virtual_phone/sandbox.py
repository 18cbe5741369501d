# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""A phone's namespaces, and the root file system that the server and all its commands live in."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from moe_mobile.errors import UnsupportedError
from moe_mobile.virtual_phone import init, linux
from moe_mobile.virtual_phone.settings import SHELL_ID
from moe_mobile.virtual_phone.storage import Storage, make_shell_home

_NODES = ("null", "zero", "full", "random", "urandom", "tty")
_BINFMT = (
    rb":moe-arm64:M::\x7fELF\x02\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00\xb7\x00:"
    rb"\xff\xff\xff\xff\xff\xff\xff\x00\xff\xff\xff\xff\xff\xff\xff\xff\xfe\xff\xff\xff:"
)
_FLAGS = linux.MS_REMOUNT | linux.MS_BIND | linux.MS_NOSUID | linux.MS_NODEV


def unshare_all(ask_for_users: Callable[[], bool], qemu: str | None) -> None:
    """Leave all namespaces but that of process ids; the working folder is the phone's root.

    Args:
        ask_for_users: has a process outside call `map_users`; False if that failed.
        qemu: path of the emulator that arm64 programs are to be run by.

    Raises:
        UnsupportedError: the kernel does not let us.
    """
    user, group = os.geteuid(), os.getegid()
    most = linux.CLONE_NEWNS | linux.CLONE_NEWIPC | linux.CLONE_NEWUTS | linux.CLONE_NEWNET
    try:
        if user == 0:
            linux.unshare(linux.CLONE_NEWUSER | most)
            if not ask_for_users():  # in a container that knows one user only
                _map_user(SHELL_ID, user, group)
            if qemu is not None:
                _register_arm64(qemu)
            return
        if qemu is not None:
            # Only a namespace's root registers formats, and what is below it inherits them.
            linux.unshare(linux.CLONE_NEWUSER | linux.CLONE_NEWNS)
            _map_user(0, user, group)
            _register_arm64(qemu)
            user = group = 0
        linux.unshare(linux.CLONE_NEWUSER | most)
        _map_user(SHELL_ID, user, group)
    except OSError as error:
        raise UnsupportedError(
            f"this machine does not allow user namespaces: {error.strerror}",
            remedy="Allow them (sysctl user.max_user_namespaces, "
            "kernel.apparmor_restrict_unprivileged_userns=0; in a container --privileged)",
        ) from error


def map_users(pid: int) -> None:
    """As root: keep root and the shell user apart in a process's new user namespace.

    Raises:
        OSError: we are not as much root as it looks.
    """
    for name in ("uid_map", "gid_map"):
        Path(f"/proc/{pid}/{name}").write_text(f"0 0 1\n{SHELL_ID} {SHELL_ID} 1\n")


def _map_user(inside: int, user: int, group: int) -> None:
    """Make the one user there is `inside`."""
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text(f"{inside} {user} 1\n")
    Path("/proc/self/gid_map").write_text(f"{inside} {group} 1\n")


def enter(name: str, storage: Storage, adopt: Callable[[int], None]) -> socket.socket:
    """Assemble the phone's file system, start its process 1, and move into it for good.

    The working folder is the phone's root.

    Args:
        name: the phone's, for its host name.
        storage: what is mounted at, or to be mounted over, the folder ``data`` next to its root.
        adopt: is given process 1's id before that starts anything.

    Returns:
        The socket of process 1.
    """
    linux.mount("none", "/", None, linux.MS_REC | linux.MS_PRIVATE)
    linux.mount(".", ".", None, linux.MS_BIND | linux.MS_REC)
    os.chdir("../root")  # into the new mount, which covers the old
    if storage.kind == "tmpfs":
        options = f"size={storage.size},mode=755"
        linux.mount("tmpfs", "data", "tmpfs", linux.MS_NOSUID | linux.MS_NODEV, options)
        make_shell_home(Path("data"), owned=os.geteuid() == 0)
    else:
        linux.mount("../data", "data", None, linux.MS_BIND)
        linux.mount(None, "data", None, _FLAGS)
    requests = _start_init(adopt)
    for name_in_proc in ("meminfo", "cpuinfo"):
        if os.path.exists(f"virtual/{name_in_proc}"):
            source = f"virtual/{name_in_proc}"
            linux.mount(source, f"proc/{name_in_proc}", None, linux.MS_BIND)
    _make_devices()
    linux.sethostname(name)
    linux.mount(None, ".", None, _FLAGS | linux.MS_RDONLY)
    linux.pivot_root(".", ".")
    linux.umount(".", linux.MNT_DETACH)
    os.chdir("/")
    return requests


def _start_init(adopt: Callable[[int], None]) -> socket.socket:
    """Start process 1 of a new namespace of process ids.

    Who leaves that namespace can start no threads, so another process does, and hands its child to
    us.
    """
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    linux.adopt_orphans()
    helper = os.fork()
    if helper == 0:
        try:
            linux.unshare(linux.CLONE_NEWPID)
            pid = os.fork()
            if pid == 0:
                ours.close()
                _become_init(theirs)
            theirs.send(str(pid).encode())
        except OSError as error:
            theirs.send(str(error).encode())
        finally:
            os._exit(0)
    theirs.close()
    os.waitpid(helper, 0)
    answers = [ours.recv(1024), ours.recv(1024)]
    pids = [int(answer) for answer in answers if answer.isdigit()]
    if not pids or b"ready" not in answers:
        problem = next(a for a in answers if not a.isdigit()).decode()
        raise UnsupportedError(
            f"this machine does not allow a phone its own /proc: {problem}",
            remedy="In a container, run it with --privileged",
        )
    adopt(pids[0])
    ours.send(b"go")
    return ours


def _become_init(requests: socket.socket) -> NoReturn:
    try:
        # Only a process of the namespace can mount it.
        flags = linux.MS_NOSUID | linux.MS_NODEV | linux.MS_NOEXEC
        linux.mount("proc", "proc", "proc", flags)
        requests.send(b"ready")
        if requests.recv(16):
            init.run(requests)
    except OSError as error:
        requests.send(str(error).encode())
    finally:
        os._exit(1)


def _make_devices() -> None:
    linux.mount("tmpfs", "dev", "tmpfs", linux.MS_NOSUID, "mode=755,size=64k")
    for node in _NODES:
        Path("dev", node).touch()
        linux.mount(f"/dev/{node}", f"dev/{node}", None, linux.MS_BIND)
    os.mkdir("dev/pts")
    flags = linux.MS_NOSUID | linux.MS_NOEXEC
    linux.mount("devpts", "dev/pts", "devpts", flags, "newinstance,ptmxmode=666,mode=620")
    for link, target in {
        "ptmx": "pts/ptmx",
        "fd": "/proc/self/fd",
        "stdin": "/proc/self/fd/0",
        "stdout": "/proc/self/fd/1",
        "stderr": "/proc/self/fd/2",
    }.items():
        os.symlink(target, f"dev/{link}")
    linux.mount(
        None, "dev", None, linux.MS_REMOUNT | linux.MS_BIND | linux.MS_RDONLY | linux.MS_NOSUID
    )


def _register_arm64(qemu: str) -> None:
    """Have the kernel run arm64 programs by qemu, in this user namespace alone (Linux 6.7)."""
    folder = "virtual/binfmt"
    os.makedirs(folder, exist_ok=True)
    try:
        linux.mount("binfmt_misc", folder, "binfmt_misc")
        # F: qemu is opened now, here; the phone has no such file. P: programs see their argv[0].
        Path(folder, "register").write_bytes(_BINFMT + os.fsencode(qemu) + b":FP")
    except OSError as error:
        if any(Path("/proc/sys/fs/binfmt_misc").glob("qemu-aarch64*")):
            return  # registered for the whole machine, which is as good
        raise UnsupportedError(
            f"this kernel cannot run arm64 programs for one phone only: {error.strerror}",
            setting="abi",
            remedy="Linux 6.7 can; else apt-get install qemu-user-static binfmt-support, which "
            "registers them for the whole machine",
        ) from error
