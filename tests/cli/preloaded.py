# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""`moe-mobile` in a process of its own that has imported PyTorch and ExecuTorch already.

They take seconds to import, and some commands need them. So a server imports them once per test run
and forks for each command: the child gets the caller's arguments, folder, environment and open
files 0 to 2, and is from there on what `moe-mobile` is. Exports lower a program once per test run.

``command()`` begins a command line that does this; as a program this file is its server (without
arguments), and the caller's side of one command (with the server's address).
"""

from __future__ import annotations

import atexit
import contextlib
import fcntl
import functools
import hashlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

# Commands that import them: others would only lose by it.
_HEAVY = ("demo", "export", "quality", "trace", "tune")
# Read when they are used. A command that changes another variable may need it while it imports.
_READ_LATE = ("ANDROID_", "MOE_", "PYTEST_")


def command(name: str, environment: Mapping[str, str]) -> list[str]:
    """Of a command with this environment; empty if it needs none of this, or its own imports."""
    if name not in _HEAVY or _read_early(environment) != _read_early(os.environ):
        return []
    from tests.bundles import SHARED  # not for the caller's side, which knows no such package

    address = _server(json.dumps(_read_early(environment), sort_keys=True), os.environ[SHARED])
    return [sys.executable, "-I", "-S", __file__, address]


def _read_early(environment: Mapping[str, str]) -> dict[str, str]:
    return {name: environment[name] for name in environment if not name.startswith(_READ_LATE)}


@functools.cache
def _server(environment: str, shared: str) -> str:
    """The address of the server with this environment, started by whoever asks first."""
    file = Path(shared, f"preloaded-{hashlib.sha256(environment.encode()).hexdigest()}")
    with file.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not file.exists():
            file.write_text(_start(json.loads(environment)))
        return file.read_text()


def _start(environment: dict[str, str]) -> str:
    address = tempfile.mkdtemp(prefix="moe-preloaded-") + "/socket"
    # It ends with the test run: with the process that pytest-xdist's workers were started by.
    run = os.getppid() if "PYTEST_XDIST_WORKER" in os.environ else os.getpid()
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.cli.preloaded"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=Path(__file__).parents[2],
        # numpy would start threads at once, and only one goes on in a child.
        env=os.environ | environment | {"OPENBLAS_NUM_THREADS": "1"},
        start_new_session=True,
        text=True,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    with process.stdin, process.stdout:
        process.stdin.write(f"{run} {address}\n")
        process.stdin.flush()
        assert process.stdout.readline() == "ready\n"
    _running.append(process)
    return address


_running: list[subprocess.Popen[str]] = []  # a process that nothing refers to is warned of


def _ask(address: str, arguments: list[str]) -> None:
    """The caller's side: hands over what is its own, and ends as the command does."""
    request = {"arguments": arguments, "folder": os.getcwd(), "environment": dict(os.environ)}
    with socket.socket(socket.AF_UNIX) as server:
        server.connect(address)
        socket.send_fds(server, [b"."], [0, 1, 2])
        server.sendall(json.dumps(request).encode())
        server.shutdown(socket.SHUT_WR)
        answer = b""
        while more := server.recv(100):
            answer += more
    status = int(answer)
    if status < 0:
        signal.signal(-status, signal.SIG_DFL)
        os.kill(os.getpid(), -status)
    os._exit(status)


def _serve() -> None:
    """Returns in each child that is to be a command."""
    import shutil

    run, address = sys.stdin.readline().split()
    ended = os.pidfd_open(int(run))
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(address)
        listening.listen(64)
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        with open(os.devnull, "r+b") as nothing:  # those who started it do not wait for it
            for standard in (0, 1):
                os.dup2(nothing.fileno(), standard)
        watched: tuple[socket.socket | int, ...] = (listening, ended)
        while True:
            ready, _, _ = select.select(watched, [], [])
            if ended in ready:
                shutil.rmtree(Path(address).parent, ignore_errors=True)
                os._exit(0)
            connection, _ = listening.accept()
            if os.fork() == 0:
                break
            connection.close()
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    with connection:
        _, files, _, _ = socket.recv_fds(connection, 1, 3)
        data = b""
        while more := connection.recv(1 << 16):
            data += more
        child = os.fork()
        if child != 0:
            _watch(connection, child)
    _become(json.loads(data), files)


def _watch(connection: socket.socket, child: int) -> None:
    """Tells how the command ended. It is killed if its caller is."""
    ended = os.pidfd_open(child)
    caller = select.poll()
    caller.register(connection, 0)  # only that it has gone
    caller.register(ended, select.POLLIN)
    if all(file != ended for file, _ in caller.poll()):
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    try:
        connection.sendall(str(os.waitstatus_to_exitcode(status)).encode())
    finally:
        os._exit(0)


def _become(request: dict[str, object], files: list[int]) -> None:
    for number, file in enumerate(files):
        os.dup2(file, number)
        os.close(file)
    sys.stdin = open(0, closefd=False)  # noqa: SIM115
    sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", buffering=1, closefd=False, errors="backslashreplace")  # noqa: SIM115
    os.chdir(str(request["folder"]))
    environment = request["environment"]
    assert isinstance(environment, dict)
    for name in os.environ.keys() - environment.keys():
        del os.environ[name]
    os.environ.update(environment)
    arguments = request["arguments"]
    assert isinstance(arguments, list)
    sys.argv = ["moe-mobile", *arguments]


def _import_all() -> None:
    """Also what commands import only when they need it."""
    import importlib
    import pkgutil

    import moe_mobile

    for name in (
        "executorch.backends.xnnpack.partition.xnnpack_partitioner",
        "executorch.exir._serialize._program",
        "torchao.quantization",
        "transformers.modeling_rope_utils",
        "tqdm",
        *(module.name for module in pkgutil.walk_packages(moe_mobile.__path__, "moe_mobile.")),
    ):
        if not name.endswith("__main__"):
            with contextlib.suppress(ImportError):  # an extra that is not installed
                importlib.import_module(name)
    from transformers import AutoModelForCausalLM, AutoTokenizer  # noqa: F401

    assert len(os.listdir("/proc/self/task")) == 1


if __name__ == "__main__":
    if len(sys.argv) > 1:
        _ask(sys.argv[1], sys.argv[2:])
    from tests.bundles import SHARED
    from tests.lowering import remembered_lowering

    _import_all()
    with remembered_lowering(Path(os.environ[SHARED], "lowered")):
        _serve()
        from moe_mobile.cli import main

        try:
            main()
        except SystemExit as end:
            # The rest of a process's end, taking down all that was imported, takes a second.
            atexit._run_exitfuncs()
            sys.stdout.flush()
            os._exit(int(end.code or 0))
