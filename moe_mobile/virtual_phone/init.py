# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""Process 1 of a phone: starts commands as the shell user, and buries what ends.

It has one thread, sits alone in its control group and takes requests from a socket; each carries
the new process's standard streams and a pipe for its process id and, later, its exit code.
"""

from __future__ import annotations

import array
import contextlib
import fcntl
import json
import os
import select
import signal
import socket
import struct
import termios
from typing import Any, NoReturn

from moe_mobile.virtual_phone.linux import die_with_parent, drop_privileges
from moe_mobile.virtual_phone.settings import SHELL_ID

REPORT = struct.Struct("<ii")
"""What goes through a process's pipe: its id and 0, then its id and its exit code."""

MAX_REQUEST = 1 << 18
KILL_FIRST = 1000
"""oom_score_adj of all that a phone runs."""

_STREAMS_AND_REPORT = 4
_NOT_EXECUTABLE = 126


def run(requests: socket.socket) -> NoReturn:
    """Serve until the other end of `requests` is closed."""
    die_with_parent(signal.SIGKILL)
    wake_read, wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    reports: dict[int, int] = {}
    poll = select.poll()
    poll.register(requests, select.POLLIN)
    poll.register(wake_read, select.POLLIN)
    while True:
        for fd, _ in poll.poll():
            if fd == wake_read:
                with contextlib.suppress(BlockingIOError):
                    os.read(wake_read, 4096)
                _bury(reports)
            elif not _serve(requests, reports):
                os._exit(0)


def _serve(requests: socket.socket, reports: dict[int, int]) -> bool:
    ancillary = socket.CMSG_SPACE(_STREAMS_AND_REPORT * array.array("i").itemsize)
    data, control, _, _ = requests.recvmsg(MAX_REQUEST, ancillary, socket.MSG_CMSG_CLOEXEC)
    if not data:
        return False
    fds = array.array("i")
    for _, _, payload in control:
        fds.frombytes(payload)
    request = json.loads(data)
    if "argv" in request and len(fds) != _STREAMS_AND_REPORT:  # no descriptors are left
        for fd in fds:
            os.close(fd)
        return True
    if "kill" in request:
        # Only what is ours and not buried yet: the number may be another process's by now.
        if not request["own"] or request["kill"] in reports:
            with contextlib.suppress(ProcessLookupError):
                os.kill(request["kill"], request["signal"])
        return True
    *streams, report = fds
    try:
        pid = os.fork()
    except OSError:
        pid = -1
    if pid == 0:
        _become(request, streams)
    for fd in streams:
        os.close(fd)
    if pid < 0:
        os.close(report)
        return True
    reports[pid] = report
    _tell(report, pid, 0)
    return True


def _become(request: dict[str, Any], streams: list[int]) -> NoReturn:
    """The child's half of a start."""
    try:
        _be_the_one_to_go()
        signal.set_wakeup_fd(-1)
        # A phone started by nohup or in the background of a script inherits ignored signals, and
        # what it runs must not: a hang-up would be lost on it.
        for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
            signal.signal(number, signal.SIG_DFL)
        os.setsid()
        # Received descriptors are numbered 3 or higher.
        for target, fd in enumerate(streams):
            os.dup2(fd, target)
        if request["terminal"]:
            fcntl.ioctl(0, termios.TIOCSCTTY, 0)
        os.umask(0o077 if request["terminal"] else 0o022)
        drop_privileges(SHELL_ID, SHELL_ID)
        os.chdir("/")
        os.execve(request["argv"][0], request["argv"], request["environment"])
    except OSError as error:
        os.write(2, f"{request['argv'][0]}: {error.strerror}\n".encode())
    finally:
        os._exit(_NOT_EXECUTABLE)


def _be_the_one_to_go() -> None:
    """Have the kernel kill this process, and what it starts, before process 1.

    Process 1 is often the largest, and all of the phone ends with it. To spare it instead takes a
    right that few have; this takes none. At the highest score any command, however small, counts
    for more than all that the group may use.
    """
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "wb", 0) as score:
        score.write(str(KILL_FIRST).encode())


def _bury(reports: dict[int, int]) -> None:
    with contextlib.suppress(ChildProcessError):
        while True:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                return
            report = reports.pop(pid, None)
            if report is not None:
                code = os.waitstatus_to_exitcode(status)
                _tell(report, pid, code if code >= 0 else 128 - code)
                os.close(report)


def _tell(report: int, pid: int, code: int) -> None:
    with contextlib.suppress(OSError):  # nobody may be left to hear it
        os.write(report, REPORT.pack(pid, code))
