# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""One grid on several devices at once: a thread each, one writer of rows."""

from __future__ import annotations

import concurrent.futures
import dataclasses
import threading
from collections.abc import Callable, Sequence

from moe_mobile.base.progress import Progress
from moe_mobile.bench.driver import BundleFacts, Cell, Protocol, row_name, varied
from moe_mobile.bench.gate import Gate
from moe_mobile.bench.measure import measure
from moe_mobile.bench.row import Row
from moe_mobile.bench.store import ResultFile
from moe_mobile.bench.target import Target, open_target
from moe_mobile.device.interface import Device
from moe_mobile.device.state import read_state
from moe_mobile.errors import MoeMobileError, RuntimeFailedError, UsageError

_POLL_S = 0.2


@dataclasses.dataclass(frozen=True)
class Plan:
    """What a bench command asks for.

    Attributes:
        gate: None: none; with ``gate_asked`` unset only if temperatures can be read on a phone.
    """

    bundle: BundleFacts
    rows: Sequence[Cell]
    protocol: Protocol
    gate: Gate | None
    gate_asked: bool
    affinity: str
    packed_dir: str | None


class Fleet:
    """Runs a plan on devices.

    ``file`` has what earlier runs measured, and gets every new row. ``show`` gets rows, those of
    earlier runs too, and ``note`` gets what people should know; both are called by one thread at a
    time.

    ``failed``: errors of rows that could not be measured while others could.
    """

    def __init__(
        self,
        plan: Plan,
        *,
        file: ResultFile | None,
        show: Callable[[Row], None],
        note: Callable[[str], None],
    ) -> None:
        self._plan = plan
        self._file, self._show, self._note = file, show, note
        self._done = {} if file is None else dict(file.rows)
        self._lock = threading.Lock()
        self._varied = varied(plan.rows)
        self._several = False
        self.failed: list[MoeMobileError] = []

    def run(self, device: Device, progress: Progress) -> None:
        """The plan on one device. Raises IoError if another command measures there."""
        with device.exclusive():
            self._run(device, progress)

    def _run(self, device: Device, progress: Progress) -> None:
        plan = self._plan
        target = open_target(
            device,
            plan.bundle,
            affinity=plan.affinity,
            packed_dir=plan.packed_dir,
            progress=progress,
        )
        protocol = dataclasses.replace(plan.protocol, gate=self._gate(device, target))
        if target.affinity.policy != "all":
            cores = ", ".join(map(str, target.affinity.cpus))
            self._say(f"{device.serial}: runs on cores {cores} ({target.affinity.policy})")
        keys = [target.key(row, protocol) for row in plan.rows]
        known = [key for key in keys if key in self._done]
        if known:
            self._say(f"{device.serial}: {len(known)} of {len(keys)} rows are measured already")
            with self._lock:
                for key in known:
                    self._show(self._done[key])
        todo = [row for row, key in zip(plan.rows, keys, strict=True) if key not in self._done]
        turns = None if self._file is None else self._file.turns

        def fail(row: Cell, error: MoeMobileError) -> None:
            name = row_name(row[0], row[1].as_request(), self._varied)
            self._fail(device, name, error)

        found = measure(target, todo, protocol, progress, turns, fail, known=len(known))
        for result in found:
            with self._lock:
                try:
                    if self._file is not None:
                        self._file.append(result)
                except RuntimeFailedError as error:
                    name = row_name(result.test, result.config, [])
                    self._fail(device, name, error)
                    continue
                self._show(result)
                if protocol.warmup is None:
                    tokens = max(run["warmup_tokens"] for run in result.runs)
                    name = row_name(result.test, result.config, self._varied)
                    self._note(f"{device.serial}, {name}: a warm-up of {tokens:,} tokens")
                for fallback in result.fallbacks:
                    self._note(f"note: {fallback}")

    def _fail(self, device: Device, name: str, error: MoeMobileError) -> None:
        """Keep the error of a row; the row and the device are named if there are several."""
        place = [device.serial] if self._several else []
        if len(self._plan.rows) > 1:
            place.append(name)
        cause = f"{', '.join(place)}: {error.cause}" if place else error.cause
        self.failed.append(error.replaced(cause=cause))

    def run_all(
        self, devices: Sequence[Device], progress: Sequence[Progress]
    ) -> list[MoeMobileError]:
        """The plan on all devices at once; one that fails does not stop the others.

        ``progress``: one for each. Returns the errors. An interruption ends what runs everywhere.
        """
        self._several = len(devices) > 1
        with concurrent.futures.ThreadPoolExecutor(len(devices)) as pool:
            pairs = zip(devices, progress, strict=True)
            running = [pool.submit(self.run, device, report) for device, report in pairs]
            try:
                while concurrent.futures.wait(running, _POLL_S).not_done:
                    pass
            except BaseException:
                for device in devices:
                    device.abort()
                raise
        errors = [future.exception() for future in running]
        for error in errors:
            if error is not None and not isinstance(error, MoeMobileError):
                raise error
        return [error for error in errors if isinstance(error, MoeMobileError)]

    def _gate(self, device: Device, target: Target) -> Gate | None:
        gate = self._plan.gate
        if gate is None or (not self._plan.gate_asked and target.facts.kind == "local"):
            return None
        if read_state(device).has_temperature:
            return gate
        if self._plan.gate_asked:
            raise UsageError(
                f"{device.serial} reports no temperature, so nothing can be waited for",
                setting="cool_to",
                remedy="Leave `cool_to` out, or give off",
            )
        self._say(f"{device.serial}: reports no temperature, so repetitions are not gated")
        return None

    def _say(self, text: str) -> None:
        with self._lock:
            self._note(text)
