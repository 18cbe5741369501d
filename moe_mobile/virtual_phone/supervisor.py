# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""The process that owns a phone: makes its limits and storage, starts its server and restarts it.

`python -m moe_mobile.virtual_phone.supervisor FOLDER [--scoped]` prints one line of JSON,
phone.json's or an error, once the phone is up; SIGTERM ends it and everything in the phone.
Its standard input is the folder's lock, held. --scoped: systemd put it into a control group that
is its own.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import resource
import shutil
import signal
import socket
import sys
import time
import traceback
from pathlib import Path
from typing import Any, NoReturn

from moe_mobile.base import limits
from moe_mobile.base.files import read_regular
from moe_mobile.base.json_text import json_text
from moe_mobile.errors import MoeMobileError, UnsupportedError, write_error
from moe_mobile.virtual_phone import linux, sandbox
from moe_mobile.virtual_phone.connection import FEATURES, Door
from moe_mobile.virtual_phone.folder import PhoneFolder
from moe_mobile.virtual_phone.hardware import Hardware
from moe_mobile.virtual_phone.limits import Limits, make_limits
from moe_mobile.virtual_phone.link import Link
from moe_mobile.virtual_phone.memory import Memory, meminfo
from moe_mobile.virtual_phone.processes import Processes
from moe_mobile.virtual_phone.server import Server
from moe_mobile.virtual_phone.settings import PhoneSettings, host_abi
from moe_mobile.virtual_phone.storage import Storage, make_storage
from moe_mobile.virtual_phone.userland import QEMU_ARM64, build_root, require_programs
from moe_mobile.virtual_phone.wire import Traffic

_COUNTERS_SIZE = 16
# More than all connections with all their streams can take; Android's own limit is half of it.
_DESCRIPTORS = 1 << 16


class _Supervisor:
    def __init__(self, folder: PhoneFolder, *, scoped: bool) -> None:
        self._folder = folder
        self._scoped = scoped
        settings = read_regular(folder.path / "settings.json", limits.OWN_BYTES)
        self._settings = PhoneSettings.from_json(settings.decode())
        self._abi = self._settings.abi or host_abi()
        emulated = self._abi != host_abi()
        require_programs(arm64=emulated)
        self._qemu = _which(*QEMU_ARM64) if emulated else None
        self._listener = _bind()
        self._port = self._listener.getsockname()[1]
        self._control = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        directory = os.open(folder.path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        self._control.bind(f"/proc/self/fd/{directory}/control")
        self._control.listen(8)
        os.close(directory)
        self._counters = os.open(
            folder.path / "counters", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600
        )
        os.ftruncate(self._counters, _COUNTERS_SIZE)
        self._server = 0
        self._storage: Storage
        self._limits: Limits

    def prepare(self) -> None:
        path = self._folder.path
        root = os.geteuid() == 0
        self._storage = make_storage(path, self._settings.flash_size, privileged=root)
        self._limits = make_limits(
            self._settings, path / "data", f"moe-mobile-{os.getpid()}", scoped=self._scoped
        )
        build_root(path / "root", self._properties(), arm64=self._qemu is not None)
        if self._settings.ram is not None:
            text = meminfo(self._settings.ram, self._settings.ram)
            (path / "root/virtual/meminfo").write_text(text)
        fd = os.open(path / "root", os.O_PATH | os.O_DIRECTORY)
        Hardware(fd).write_cpus(arm64=self._qemu is not None)
        os.close(fd)

    def run(self) -> None:
        """Keep the phone up until its server ends for good."""
        misbehaviour = self._settings.misbehaviour.changes()
        announced = False
        while True:
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            self._server = os.fork()
            if self._server == 0:
                ours.close()
                self._become_server(theirs, misbehaviour)
            theirs.close()
            seconds = None
            while message := ours.recv(1 << 16):
                answer = json.loads(message)
                if "unshared" in answer:
                    try:
                        sandbox.map_users(self._server)
                        ours.send(b"mapped")
                    except OSError:
                        ours.send(b"refused")
                elif "reboot" in answer:
                    seconds = answer["reboot"]
                    misbehaviour |= answer["misbehaviour"]
                elif not announced:
                    announced = True
                    self._announce(answer)
            ours.close()
            os.waitpid(self._server, 0)
            self._server = 0
            if seconds is None:
                return
            self._listener.shutdown(socket.SHUT_RDWR)  # refuses clients, and keeps the port
            for name in ("drop_after_received", "drop_after_sent", "drop_again", "kill", "reboot"):
                misbehaviour.pop(name, None)
            time.sleep(seconds)

    def stop(self) -> None:
        """Kill everything in the phone and remove its folder."""
        if self._server:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._server, signal.SIGKILL)
                os.waitpid(self._server, 0)
        if hasattr(self, "_limits"):
            self._limits.remove()
        with contextlib.suppress(OSError):
            linux.umount(str(self._folder.path / "data"), linux.MNT_DETACH)
        shutil.rmtree(self._folder.path, ignore_errors=True)

    def _announce(self, answer: dict[str, Any]) -> None:
        if "error" in answer:
            print(json_text(answer), flush=True)
            return
        record = {
            "name": self._folder.name,
            "serial": f"127.0.0.1:{self._port}",
            "pid": os.getpid(),
            "abi": self._abi,
            "ram_bytes": self._settings.ram,
            "limit": self._limits.memory_kind,
            "limiter": self._limits.limiter,
            "flash_mbps": self._settings.flash_mbps,
            "flash_limit": self._limits.flash_kind,
            "flash": self._storage.kind,
            "flash_bytes": self._storage.size,
            "link_mbps": self._settings.link_mbps,
        }
        path = self._folder.path / "phone.json"
        path.with_suffix(".new").write_text(json_text(record))
        path.with_suffix(".new").rename(path)
        print(json_text(record), flush=True)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)

    def _become_server(self, supervisor: socket.socket, misbehaviour: dict[str, Any]) -> NoReturn:
        try:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)  # the supervisor's to act on
            linux.die_with_parent(signal.SIGKILL)
            root_fd = os.open(self._folder.path / "root", os.O_PATH | os.O_DIRECTORY)
            os.chdir(self._folder.path / "root")

            def ask_for_users() -> bool:
                supervisor.send(b'{"unshared": true}')
                return supervisor.recv(16) == b"mapped"

            sandbox.unshare_all(ask_for_users, self._qemu)
            linux.die_with_parent(signal.SIGKILL)  # the new credentials cleared it
            init = sandbox.enter(self._folder.name, self._storage, self._limits.adopt)
            processes = Processes(init)
            mbps = self._settings.link_mbps
            server = Server(
                listener=self._listener,
                control=self._control,
                supervisor=supervisor,
                init=init,
                traffic=Traffic(self._counters, Link(mbps * 10**6) if mbps else None),
                door=Door(self._banner()),
                storage=self._storage,
                hardware=Hardware(root_fd),
                memory=Memory(self._settings.ram, self._limits.memory_group, processes, root_fd),
                processes=processes,
            )
            os.umask(0)  # as adbd: modes are what clients ask for
            server.apply(misbehaviour)
            server.run()
        except MoeMobileError as error:
            supervisor.send(json_text({"error": error.as_dict()}).encode())
        except BaseException as error:
            traceback.print_exc()
            wrapped = UnsupportedError(f"the phone's sandbox could not be made: {error!r}")
            supervisor.send(json_text({"error": wrapped.as_dict()}).encode())
        finally:
            os._exit(1)

    def _properties(self) -> dict[str, str]:
        return {
            "ro.product.manufacturer": "moe-mobile",
            "ro.product.brand": "moe-mobile",
            "ro.product.model": "Virtual Phone",
            "ro.product.name": "virtual_phone",
            "ro.product.device": "virtual_phone",
            "ro.product.cpu.abi": self._abi,
            "ro.product.cpu.abilist": self._abi,
            "ro.product.cpu.abilist64": self._abi,
            "ro.soc.manufacturer": "moe-mobile",
            "ro.soc.model": "Virtual SoC",
            "ro.hardware": "virtual",
            "ro.build.version.release": "15",
            "ro.build.version.sdk": "35",
            "ro.build.type": "user",
            "ro.serialno": self._folder.name,
            "sys.boot_completed": "1",
            "ro.moe_mobile.android_id": hashlib.sha256(bytes(self._folder.path)).hexdigest()[:16],
            "ro.moe_mobile.virtual": "1",
            "ro.moe_mobile.limit": self._limits.memory_kind,
            "ro.moe_mobile.flash_limit": self._limits.flash_kind,
        }

    def _banner(self) -> str:
        shown = ("ro.product.name", "ro.product.model", "ro.product.device")
        properties = self._properties()
        text = "".join(f"{name}={properties[name]};" for name in shown)
        return f"device::{text}features={FEATURES}"


def _bind() -> socket.socket:
    """A socket on a free port of the loopback interface."""
    while True:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            address = probe.getsockname()
        # Bound by number: only such a socket keeps its port over a shutdown().
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        with contextlib.suppress(OSError):  # somebody was faster
            listener.bind(address)
            return listener
        listener.close()


def _which(*names: str) -> str:
    return next(path for path in map(shutil.which, names) if path)


def main() -> None:
    """Run the phone whose folder the command line names."""
    folder = PhoneFolder(Path(sys.argv[1]))
    if os.fork():
        os._exit(0)  # the process that started us need not wait for us
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(_DESCRIPTORS, hard)), hard))
    # Every process of the phone but its commands keeps the lock, so that it is free once all ended.
    os.dup(0)
    os.dup2(os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC), 0)
    supervisor: _Supervisor | None = None
    error: MoeMobileError | None = None
    try:
        supervisor = _Supervisor(folder, scoped="--scoped" in sys.argv)
        supervisor.prepare()
        supervisor.run()
    except MoeMobileError as problem:
        error = problem
    except OSError as problem:
        error = write_error(problem, problem.filename or folder.path)
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        if supervisor is not None:
            supervisor.stop()
        else:
            shutil.rmtree(folder.path, ignore_errors=True)
    if error is not None:
        with contextlib.suppress(BrokenPipeError):  # the process that started us was interrupted
            print(json_text({"error": error.as_dict()}), flush=True)


if __name__ == "__main__":
    main()
