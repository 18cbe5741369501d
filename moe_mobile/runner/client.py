# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""Client of the ``moe_runner`` process: JSON lines in, JSON lines out, typed errors.

Running the engine in a process of its own keeps memory figures clean, and turns a crash of native
code into an error with the process's last words instead of the end of Python.
"""

from __future__ import annotations

import collections
import contextlib
import itertools
import os
import signal
import subprocess
import threading
import weakref
from collections.abc import Callable, Mapping
from typing import IO, Any, Self

from moe_mobile.base import limits
from moe_mobile.base.json_field import parse_object, too_many_values
from moe_mobile.base.json_text import json_text
from moe_mobile.base.pipes import LineReader, LineTooLongError, Writer
from moe_mobile.base.progress import Progress
from moe_mobile.base.terminal import all_without_controls, without_controls
from moe_mobile.errors import (
    CancelledError,
    DeviceError,
    IoError,
    MoeMobileError,
    RuntimeFailedError,
)
from moe_mobile.results import Residency
from moe_mobile.runner.answers import EVENTS, is_answer, is_error
from moe_mobile.runner.awaited import Awaited
from moe_mobile.runner.ending import NORMAL_PHONE, typed_error, why_it_ended
from moe_mobile.runner.launch import Launch, find_runner
from moe_mobile.settings import to_json

_STDERR_LINES = 40
_CLOSE_SECONDS = 5.0
# So often a silent phone's limits are looked at.
_LOOK_S = 1.0


class Runner:
    """One ``moe_runner`` process; use it as a context manager, or call :meth:`close`.

    ``program`` is the path of one on this machine, by default :func:`find_runner`'s, or says how
    to start one elsewhere. One thread at a time makes requests; :meth:`cancel`,
    :meth:`resize` and :meth:`residency` may come from any thread, also while another one waits for
    its answer, and from its callbacks. After an error that says the
    process ended, the object is closed.
    """

    def __init__(
        self,
        program: str | os.PathLike[str] | Launch | None = None,
        *,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self._launch = program if isinstance(program, Launch) else None
        if isinstance(program, Launch):
            self.name, command = f"moe_runner on {program.place}", list(program.command)
        else:
            self.name = os.fspath(program) if program is not None else str(find_runner())
            command = [self.name, "--attached"]
        self._ids = itertools.count(1)
        self._sending = threading.Lock()
        # One thread reads the events of all: events wait here for the thread that they are for.
        self._turn = threading.Condition()
        self._reading = False
        self._waiting: dict[int, Awaited] = {}
        self._pid_there: int | None = None
        self._killed_here = False
        self._last_words: collections.deque[str] = collections.deque(maxlen=_STDERR_LINES)
        try:
            self._process: subprocess.Popen[bytes] = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env=None if environment is None else {**os.environ, **environment},
            )
        except OSError as error:
            program = "moe_runner" if self._launch is None else "adb"
            raise RuntimeFailedError(
                f"{program} cannot be started: {error.strerror}",
                file=command[0],
                remedy=self.remedy(
                    "Run `moe-mobile doctor`; the package may be built for another machine",
                    "Check that `adb devices` works here",
                ),
            ) from error
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        assert self._process.stderr is not None
        self._writer, self._lines = Writer(self._process.stdin), LineReader(self._process.stdout)
        self._drain = threading.Thread(
            target=_collect, args=(self._process.stderr, self._last_words), daemon=True
        )
        self._drain.start()
        # However this object or the interpreter ends, the process does not outlive it.
        self._finalizer = weakref.finalize(self, _kill, self._process, self._writer, self._lines)

    @property
    def pid(self) -> int:
        """Process id of the runner, or here of the program that carries its streams."""
        return self._process.pid

    def remedy(self, here: str, on_phone: str = NORMAL_PHONE) -> str:
        """What helps if it does not answer as it should. `doctor` knows nothing of phones."""
        return here if self._launch is None else on_phone

    @property
    def has_ended(self) -> bool:
        """Whether the process, or the program that carries its streams, has ended."""
        return self._process.poll() is not None

    @property
    def log_tail(self) -> str:
        """The last lines the runner wrote to stderr."""
        return "\n".join(self._last_words)

    def request(
        self,
        command: str,
        *,
        progress: Progress | None = None,
        on_token: Callable[[int], None] | None = None,
        planned: Callable[[dict[str, Any]], None] | None = None,
        **members: object,
    ) -> dict[str, Any]:
        """Send one request and wait for its result, the members of the ``result`` event.

        Members that are None are left out. Raises the typed error the runner reports,
        RuntimeFailedError if it ends or breaks the protocol, UsageError for a member that JSON
        cannot hold. An exception from a callback (or Ctrl-C) ends the process: it would go on with
        a request that nobody waits for.
        """
        callbacks: dict[str, Callable[..., None] | None]
        callbacks = {"progress": progress, "token": on_token, "plan": planned}
        request_id = next(self._ids)
        message = {"id": request_id, "command": command}
        message |= {name: value for name, value in members.items() if value is not None}
        line = to_json(message).encode() + b"\n"
        with self._turn:
            self._waiting[request_id] = Awaited(message)
        begun = False
        try:
            with self._sending:
                begun = True
                self._send(line)
            while True:
                event = self._receive(request_id)
                kind = event.get("event")
                if kind == "result":
                    result = {k: v for k, v in event.items() if k not in ("id", "event")}
                    if not is_answer(result, message):
                        raise self._unexpected(event)
                    return result
                if kind == "error":
                    if not is_error(event.get("error")):
                        raise self._unexpected(event)
                    raise typed_error(event["error"], self._launch)
                if not isinstance(kind, str) or kind not in EVENTS:
                    continue
                callback = callbacks[kind]
                if callback is not None:
                    callback(*(event[name] for name in EVENTS[kind]))
        except MoeMobileError:
            raise
        except BaseException:
            if begun:
                self.kill()
            raise
        finally:
            with self._turn:
                del self._waiting[request_id]

    def cancel(self) -> int:
        """Stop all requests that wait for an answer: they raise CancelledError.

        `generate`, `score` and `bench` stop after the token that is being decoded, a prompt after
        its batch, everything else when it next reports progress. Returns how many there were.
        """
        return int(self.request("cancel")["cancelled"])

    def resize(self, cache: str) -> dict[str, Any]:
        """Give the open bundle's experts another budget, such as ``"25%"``; see Engine.resize.

        Returns the new memory plan. Raises BudgetError or UsageError; then nothing has changed.
        """
        plan: dict[str, Any] = self.request("resize", cache=cache)["plan"]
        return plan

    def residency(self) -> Residency:
        """Which of the open bundle's experts are in memory."""
        return Residency.from_json(self.request("residency"))

    def close(self) -> None:
        """End the process: politely by closing its input, after a few seconds by force."""
        self._writer.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout=_CLOSE_SECONDS)
        self.kill()

    def kill(self) -> None:
        """End the process at once."""
        if self._process.poll() is None:
            self._killed_here = True
        self._finalizer()
        self._drain.join(timeout=_CLOSE_SECONDS)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self.close()
        else:
            self.kill()

    def _send(self, line: bytes) -> None:
        seconds = None
        if self._launch is not None:
            seconds = limits.SILENCE_S + len(line) / limits.LEAST_RATE
        try:
            self._writer.write(line, seconds)
        except TimeoutError:
            self.kill()
            raise DeviceError(
                f"it did not take a request of {len(line)} bytes in {seconds:.0f} s",
                file=self.name,
                remedy=NORMAL_PHONE,
            ) from None
        except ValueError:  # another thread closed it
            raise RuntimeFailedError("the runner is closed", file=self.name) from None
        except BrokenPipeError:
            raise self._ended() from None
        except OSError as error:
            raise IoError(
                f"writing to moe_runner failed: {error.strerror}",
                file=self.name,
                remedy=self.remedy("Run this again; if it stays, run `moe-mobile doctor`"),
            ) from error

    def _receive(self, request_id: int) -> dict[str, Any]:
        awaited = self._waiting[request_id]
        # Here, what runs is seen.
        pause = None if self._launch is None else _LOOK_S
        while True:
            with self._turn:
                if not awaited.events and self._reading:
                    self._turn.wait(pause)
                if awaited.events:
                    return awaited.events.popleft()
            # Also while something comes: it may all be for others, or no headway.
            self._check_silence(awaited)
            with self._turn:
                if awaited.events or self._reading:
                    continue
                self._reading = True
            try:
                try:
                    event, line = self._read_event(pause)
                except TimeoutError:
                    continue
                if event.get("event") == "start" and self._pid_there is None:
                    pid = event.get("pid")
                    self._pid_there = pid if isinstance(pid, int) else -1
                elif not self._hand_over(event):
                    raise self._broken(f"expected an event for request {request_id}, got: {line}")
            finally:
                with self._turn:
                    self._reading = False
                    self._turn.notify_all()

    def _hand_over(self, event: dict[str, Any]) -> bool:
        """Gives an event to the request it is for; false if there is none."""
        number = event.get("id")
        with self._turn:
            awaited = self._waiting.get(number) if isinstance(number, int) else None
            wrong = None if awaited is None else awaited.take(event)
        if wrong is not None:
            raise self._broken(wrong)
        return awaited is not None

    def _read_event(self, seconds: float | None) -> tuple[dict[str, Any], str]:
        """An event, whose texts may be shown, and how its line begins.

        Raises TimeoutError if there is none in that time.
        """
        with self._turn:
            most = max(awaited.most_bytes for awaited in self._waiting.values())
        try:
            line = self._lines.read(most, seconds)
        except LineTooLongError as error:
            begin = without_controls(error.begin.decode(errors="replace"))
            raise self._broken(f"a line of more than {most} bytes, which begins {begin}") from None
        except TimeoutError:
            raise
        except ValueError:  # another thread closed it
            raise RuntimeFailedError("the runner is closed", file=self.name) from None
        if not line.endswith(b"\n"):
            raise self._ended()
        shown = without_controls(line[:200].decode(errors="replace").rstrip())
        if too_many_values(line):
            raise self._broken(f"too many values in one answer: {shown}")
        try:
            # JSON has finite numbers only: an answer with others could not be written again.
            event = all_without_controls(parse_object(line, finite=True))
        except RecursionError:
            event = None
        if not isinstance(event, dict):
            raise self._broken(f"expected an event, got: {shown}")
        return event, shown

    def _check_silence(self, awaited: Awaited) -> None:
        """Raise DeviceError if an engine elsewhere is silent and does not compute."""
        if self._launch is None or not awaited.must_look():
            return
        try:
            work = self._launch.work(self._pid_there)
        except DeviceError as error:
            self.kill()
            raise error.replaced(
                cause=f"the engine got no further for {awaited.silent_s:.0f} s, and looking at it "
                f"failed: {error.cause}"
            ) from None
        if not awaited.works(work):
            self.kill()
            how = "does not run any more" if work is None else "does not compute"
            raise DeviceError(
                f"the engine got no further for {awaited.silent_s:.0f} s and {how}",
                file=self.name,
                remedy=NORMAL_PHONE,
            )

    def _unexpected(self, event: dict[str, Any]) -> RuntimeFailedError:
        return self._broken(f"got {json_text(event)[:200]}")

    def _broken(self, how: str) -> RuntimeFailedError:
        self.kill()
        return RuntimeFailedError(
            f"moe_runner broke its protocol: {how}",
            file=self.name,
            remedy=self.remedy(
                "Something else may be writing to its stdout; run `moe-mobile doctor`"
            ),
        )

    def _ended(self) -> MoeMobileError:
        """The error for a process that ended without an answer."""
        try:
            code = self._process.wait(timeout=_CLOSE_SECONDS)
        except subprocess.TimeoutExpired:
            code = None
        killed_here = self._killed_here
        self.kill()
        if self._launch is not None and code is not None and 128 < code <= 192:
            code = 128 - code
        if code == -signal.SIGINT:
            # Ctrl-C reaches every process of the terminal; this one may notice it last.
            return CancelledError("stopped by the user")
        if killed_here:
            return RuntimeFailedError(
                "the runner was stopped before it answered",
                file=self.name,
                remedy="Another request's callback failed, or the runner was closed: start another",
            )
        tail = "\n".join(list(self._last_words)[-12:])
        if self._launch is not None:
            error = self._launch.explain(code, tail, self._pid_there)
            if error is not None:
                return error
        return why_it_ended(code, tail, name=self.name, launch=self._launch)


def _collect(stream: IO[bytes], lines: collections.deque[str]) -> None:
    with stream:
        while line := stream.readline(limits.TOLD):
            lines.append(line.decode(errors="replace").rstrip())


def _kill(process: subprocess.Popen[bytes], writer: Writer, lines: LineReader) -> None:
    if process.poll() is None:
        process.kill()
        process.wait()
    writer.close()
    lines.close()
