# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""A phone behind adb."""

from __future__ import annotations

import contextlib
import math
import pathlib
import re
import shlex
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence

from moe_mobile.base import limits
from moe_mobile.base.command_line import command_line
from moe_mobile.base.progress import Progress
from moe_mobile.device.adb_server import AdbServer, adb_command, unusable
from moe_mobile.device.deploy.attempt import Deployed
from moe_mobile.device.deploy.deploy import Deployer
from moe_mobile.device.deploy.inventory import Inventory, phone_root
from moe_mobile.device.deploy.package import (
    SETTINGS,
    Package,
    bundle_package,
    runtime_package,
)
from moe_mobile.device.deploy.plan import make_plan, other_stores, packed_bytes
from moe_mobile.device.deploy.remote import Remote
from moe_mobile.device.deploy.told import endless
from moe_mobile.device.facts import facts_script, parse_facts
from moe_mobile.device.interface import Device, DeviceFacts, ShellResult
from moe_mobile.device.lost import broken, silent
from moe_mobile.device.script_output import decoded, mask
from moe_mobile.errors import (
    BundleCorruptError,
    DeviceError,
    KilledError,
    MoeMobileError,
    RuntimeFailedError,
    UnsupportedError,
    UsageError,
)
from moe_mobile.runner import Launch, Runner
from moe_mobile.runtime import Runtime, find_runtime

_KILL = re.compile(r"lowmemorykiller: (Kill .*)")
_MOST_PID = 1 << 22
# State, user and system time; the name before them may hold brackets.
_STAT = re.compile(r"[0-9]+ \(.*\) (\S)(?: -?[0-9]+){10} ([0-9]{1,15}) ([0-9]{1,15}) ")
# Linux reports times to programs in this unit on every phone (USER_HZ).
_TICKS = 100
# How long to wait for a kill to appear in the log.
_LOG_SECONDS = 2.0
# A shell may take a program of another machine for a script.
_NO_PROGRAM = re.compile(r"Exec format error|not executable|syntax error")
# adb refuses command lines of more than 64 KiB, so scripts come over standard input.
_READ_AND_RUN = 's=$(cat); exec </dev/null; eval "$s"'


class AdbDevice(Device):
    """Runs the engine from ``/data/local/tmp/moe-mobile``, as adb's shell user.

    Make one with :func:`moe_mobile.device.select.open_device`.
    """

    def __init__(self, server: AdbServer, serial: str) -> None:
        super().__init__(serial)
        self._server = server
        self._deployer = Deployer(Remote(server, serial, self.shell, self.aborted))
        self._runtime: Runtime | None = None
        self._runtime_folder = ""

    def facts(self) -> DeviceFacts:
        text = self.shell(facts_script(phone_root())).stdout
        return parse_facts(text, serial=self.serial, kind="adb")

    def shell(self, script: str, *, timeout: float | None = None) -> ShellResult:
        timeout = limits.ANSWER_S if timeout is None else timeout
        try:
            with self._server.shell(self.serial, _READ_AND_RUN, seconds=timeout) as stream:
                if stream.write(script.encode()):
                    stream.close_stdin()
                code = stream.wait()
        except DeviceError:
            raise
        except TimeoutError:
            raise silent(self.serial, timeout) from None
        except ConnectionAbortedError:
            raise endless(self.serial) from None
        except OSError:
            raise self._lost() from None
        return ShellResult(code, decoded(stream.stdout), decoded(stream.stderr))

    def stream(self, script: str) -> subprocess.Popen[bytes]:
        pipe = subprocess.PIPE
        command, nowhere = self._command(script), subprocess.DEVNULL
        return subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=nowhere)

    @contextlib.contextmanager
    def exclusive(self) -> Iterator[None]:
        with self._deployer.measuring():
            yield

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """Inside, no other command deploys to it or measures on it. Raises IoError if one
        does."""
        with self._deployer.deploying(), self.exclusive():
            yield

    def check_exclusive(self) -> None:
        self._deployer.check_locks()

    def _start_runner(self, cpus: Sequence[int] | None) -> Runner:
        if not self._runtime_folder:
            self.place_runtime(self._deployer.inventory())
        assert self._runtime is not None
        # Without taskset, the samples show on which cores it really ran.
        pin = "" if cpus is None else f"command -v taskset >/dev/null && t='taskset {mask(cpus)}'; "
        script = (
            f"{pin}cd {phone_root()} && d={shlex.quote(self._runtime_folder)} && "
            f"l=$d/{self._runtime.loader} && chmod 755 $l $d/moe_runner && "
            f"TMPDIR=/data/local/tmp MOE_MOBILE_STATE_DIR={phone_root()}/state "
            "exec $t $l --library-path $d/lib $d/moe_runner --attached"
        )
        return Runner(Launch(self._command(script), self.serial, self._work, self._explain_end))

    def place(self, bundle: pathlib.Path, progress: Progress | None = None) -> str:
        return self.deploy(bundle, progress=progress).path

    def locate(self, bundle: pathlib.Path) -> str:
        folder = bundle_package(bundle).folder
        if not self._deployer.inventory().below(folder):
            raise UsageError(
                "this bundle is not on the device",
                file=bundle,
                setting=self.serial,
                remedy=f"Run `{command_line('deploy', bundle, device=self.serial)}`",
            )
        return f"{phone_root()}/{folder}"

    def distrust(self, bundle: pathlib.Path, damaged: BundleCorruptError) -> MoeMobileError:
        folder = bundle_package(bundle).folder
        file = str(damaged.file).removesuffix(f" on {self.serial}")
        if file.startswith(f"{phone_root()}/{folder}/.packed/"):
            # Without it, it is packed again, from a shard that is sent again if it was consumed;
            # dense weights are so only together with all others.
            layer = file.rpartition("/")[2].startswith("layer-")
            gone = file if layer else file.rpartition("/")[0]
            self.shell(f"rm -rf {shlex.quote(gone)}")
            again = command_line("deploy", bundle, device=self.serial, prepare=True)
            remedy = f"`{again}` packs it again"
        else:
            self._deployer.distrust(folder, file.removeprefix(f"{phone_root()}/{folder}/"))
            again = command_line("deploy", bundle, device=self.serial)
            remedy = f"`{again}` repairs it"
        return BundleCorruptError(damaged.cause, file=damaged.file, remedy=remedy)

    def deploy(
        self,
        bundle: pathlib.Path,
        *,
        settings: pathlib.Path | None = None,
        consume: bool = False,
        replace: bool = False,
        prune: bool = False,
        progress: Progress | None = None,
    ) -> Deployed:
        """Bring a bundle and the engine to the device.

        Args:
            bundle: its folder here.
            settings: a file that goes along with it, in place of one that is there.
            consume: count on `prepare --consume` when checking the space that is left.
            replace: delete other deployments before, to make space.
            prune: delete other deployments, engines and packed weights afterwards.
            progress: stage "deploy", in MiB.
        """
        package = bundle_package(bundle, settings)
        there = self._deployer.inventory()
        if replace:
            self._deployer.remove(self._others(there, [package]))
            there = self._deployer.inventory()
        engine = self.place_runtime(there)
        if prune and self._prunable(there, package, engine):
            with self._deployer.measuring():
                pass  # refuse before sending, not after
        with contextlib.closing(_Hasher(self)) as hasher:
            deployed = self._deployer.deploy(
                package,
                there,
                hasher.digest,
                reserve=packed_bytes(package, there, consume=consume),
                progress=progress,
            )
        deployed.other_stores = other_stores(package, there)
        deployed.settings = None if settings is None else f"{deployed.path}/{SETTINGS}"
        if prune:
            self._deployer.remove(self._prunable(self._deployer.inventory(), package, engine))
        return deployed

    def space_needed(self, package: Package) -> int:
        """Bytes that deploying and preparing a bundle would still take there."""
        there = self._deployer.inventory()
        plan = make_plan(package, there)
        return plan.bytes_to_write + packed_bytes(package, there, consume=False)

    def place_runtime(self, there: Inventory) -> Package:
        """Bring the engine for the device's ABI to it. Raises UnsupportedError without one."""
        abi = self.shell("getprop ro.product.cpu.abi").stdout.strip()
        try:
            self._runtime = find_runtime(abi)
        except UnsupportedError as error:
            raise UnsupportedError(
                error.cause,
                file=error.file,
                setting=error.setting or self.serial,
                remedy=error.remedy,
            ) from None
        package = runtime_package(self._runtime)
        self._runtime_folder = self._deployer.deploy(package, there, self._sha256sum).path
        return package

    def _prunable(self, there: Inventory, package: Package, engine: Package) -> list[str]:
        return [*self._others(there, [package, engine]), *other_stores(package, there)]

    def _others(self, there: Inventory, keep: Sequence[Package]) -> list[str]:
        kept = {package.folder for package in keep}
        rooms = {package.room for package in keep}
        folders = [f"{room}/{name}" for room in sorted(rooms) for name in there.folders(room)]
        return [folder for folder in folders if folder not in kept]

    def _sha256sum(self, path: str) -> str:
        """Without the engine, to bring which this is needed; "" if it fails."""
        return self.shell(f"sha256sum {shlex.quote(path)}").stdout.partition(" ")[0]

    def _command(self, script: str) -> list[str]:
        return adb_command("-s", self.serial, "shell", "-T", script)

    def _lost(self) -> DeviceError:
        state = self._server.states().get(self.serial)
        if state != "device":
            return unusable(self.serial, state)
        return broken(self.serial)

    def _work(self, pid: int | None) -> float | None:
        """CPU seconds of a process, infinity while it waits for the flash, None without one."""
        if pid is None or not 0 < pid <= _MOST_PID:
            return None
        said = self.shell(f"cat /proc/{pid}/stat 2>/dev/null").stdout
        found = _STAT.match(said)
        if found is None:
            return None
        return math.inf if found[1] == "D" else (int(found[2]) + int(found[3])) / _TICKS

    def _explain_end(
        self, code: int | None, last_words: str, pid: int | None
    ) -> MoeMobileError | None:
        """Why a runner ended, if there is more to say than its exit code."""
        name = f"moe_runner on {self.serial}"
        try:
            state = self._server.states().get(self.serial)
            if state != "device":
                return unusable(self.serial, state)
            if code == 255 and not last_words:  # adb's own, and it is connected again
                return self._lost()
            killed = code == -signal.SIGKILL
            kill = self._logged_kill(pid, _LOG_SECONDS if killed else 0)
        except DeviceError as error:
            return error
        if killed:
            return KilledError(
                f"the device killed the engine to get memory back; the device says: {kill}"
                if kill
                else "the engine was killed on the device, probably for lack of memory",
                file=name,
                remedy="Give a smaller `cache` or `context`, or close apps on the device",
            )
        # It may be damaged: the next time it is verified, and sent again if needed.
        with contextlib.suppress(MoeMobileError):  # why it ended is what matters
            self._deployer.distrust(self._runtime_folder.removeprefix(f"{phone_root()}/"))
        if code in (126, 127) or _NO_PROGRAM.search(last_words):
            return RuntimeFailedError(
                f"the engine cannot run on this device: {last_words or 'it cannot be executed'}",
                file=name,
                remedy="Run this again: a damaged engine is sent again",
            )
        return None

    def _logged_kill(self, pid: int | None, patience: float) -> str | None:
        """What the device's log says of the engine's death, which may take it some seconds."""
        deadline = time.monotonic() + patience
        while True:
            log = self.shell("logcat -d -t 200 2>/dev/null", timeout=10).stdout
            # The log remembers others that were killed earlier.
            kills = [found for found in _KILL.findall(log) if f"'moe_runner' ({pid})" in found]
            if kills or time.monotonic() >= deadline:
                return kills[-1] if kills else None
            time.sleep(0.1)


class _Hasher:
    """The engine's hashing on a device: a runner that is started when it is needed first."""

    def __init__(self, device: AdbDevice) -> None:
        self._device = device
        self._runner: Runner | None = None

    def digest(self, path: str) -> str:
        if self._runner is not None and self._runner.has_ended:
            self.close()  # with a connection, before this file was there
        if self._runner is None:
            self._runner = self._device.runner()
        try:
            answer = self._runner.request("digest", paths=[path], sync=True)
        except MoeMobileError:
            self.close()
            raise
        return str(answer["files"][0]["sha256"])

    def close(self) -> None:
        if self._runner is not None:
            self._runner.close()
            self._runner = None
