# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""The services that run commands: `shell,v2`, and `shell` and `exec` without a protocol.

In shell protocol version 2 each message is a byte that says what it is, a little-endian 32-bit
length and the bytes. Source: AOSP's packages/modules/adb, shell_protocol.h and shell_service.cpp.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import struct
import termios
import threading
from dataclasses import dataclass

from moe_mobile.virtual_phone.processes import Process, Processes
from moe_mobile.virtual_phone.stream import Stream, StreamClosed
from moe_mobile.virtual_phone.wire import ConnectionClosed

MOST_DESCRIPTORS = 9
"""What a command takes while it starts; later less."""

_STDIN, _STDOUT, _STDERR, _EXIT, _CLOSE_STDIN, _WINDOW_SIZE = range(6)
_FRAME = struct.Struct("<BI")
_PATIENCE_MS = 1000
_PIPE_SIZE = 1 << 20
_CHUNK = 1 << 20
_LARGEST_CONTROL_MESSAGE = 256
_END_OF_FILE = b"\x04"
_CANNOT_START = 126
_ENVIRONMENT = {
    "PATH": "/system/bin",
    "HOME": "/",
    "USER": "shell",
    "LOGNAME": "shell",
    "SHELL": "/system/bin/sh",
    "TMPDIR": "/data/local/tmp",
    "ANDROID_ROOT": "/system",
    "ANDROID_DATA": "/data",
    # For the programs of this machine in /system/bin; a bundled loader's --library-path wins.
    "LD_LIBRARY_PATH": "/system/lib64",
}


@dataclass(frozen=True)
class _Request:
    framed: bool
    terminal: bool
    term: str | None
    command: str

    @classmethod
    def parse(cls, service: str, command: str) -> _Request:
        kind, *options = service.split(",")
        terminal = command == "" and kind == "shell"
        if "pty" in options:
            terminal = True
        if "raw" in options:
            terminal = False
        terms = [option[5:] for option in options if option.startswith("TERM=")]
        return cls("v2" in options, terminal, terms[-1] if terms else None, command)


def serve_shell(stream: Stream, service: str, command: str, processes: Processes) -> None:
    """Run `command`, or an interactive shell if it is empty, until it and its output end."""
    request = _Request.parse(service, command)
    argv = ["/system/bin/sh", "-c", command] if command else ["/system/bin/sh", "-"]
    environment = _ENVIRONMENT | ({"TERM": request.term} if request.term else {})
    with contextlib.closing(_Session(stream, request)) as session:
        try:
            process = processes.start(argv, environment, session.child, terminal=request.terminal)
        except OSError as error:
            if request.framed:
                stream.write(_frame(_STDERR, f"sh: {error.strerror}\n".encode()))
                stream.write(_frame(_EXIT, bytes([_CANNOT_START])))
            return
        finally:
            session.close_child()
        with contextlib.closing(process):
            feeder = threading.Thread(target=session.feed, args=(process,), daemon=True)
            feeder.start()
            try:
                session.pump()
                # As adbd: a client that left is not waited for; what it started may go on without
                # us.
                if session.wait(process) and request.framed:
                    stream.write(_frame(_EXIT, bytes([process.exit_code() & 0xFF])))
            finally:
                session.finish()
                feeder.join()


def _frame(kind: int, data: bytes) -> bytes:
    return _FRAME.pack(kind, len(data)) + data


class _Session:
    """The pipes or the terminal between a stream and a process."""

    def __init__(self, stream: Stream, request: _Request) -> None:
        self._stream = stream
        self._request = request
        self._terminal = request.terminal
        self._gone = self._stdin = -1
        self._outputs: dict[int, int] = {}
        self.child: tuple[int, ...] = ()
        try:
            self._gone = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
            self._open()
        except OSError:  # no descriptors are left
            self.close_child()
            self.close()
            raise
        os.set_blocking(self._stdin, False)
        stream.on_close(self._wake)

    def _open(self) -> None:
        if self._terminal:
            self._stdin, slave = os.openpty()
            self._outputs = {self._stdin: _STDOUT}
            self.child = (slave, slave, slave)
            return
        stdin, self._stdin = _pipe()
        self.child = (stdin,)
        for kind in (_STDOUT, _STDERR) if self._request.framed else (_STDOUT,):
            output, end = _pipe()
            self._outputs[output] = kind
            self.child += (end,)
        if not self._request.framed:
            self.child += self.child[-1:]

    def feed(self, process: Process) -> None:
        """Hand the client's bytes to the process until the client closes the stream."""
        try:
            if self._request.framed:
                while True:
                    self._feed_message()
            while True:
                self._write_stdin(self._stream.take(_CHUNK))
        except (StreamClosed, ConnectionClosed):
            pass
        self._close_stdin()
        # As adbd: a client of version 2 that leaves takes its process with it; one of exec only
        # said that it will send no more.
        if self._request.framed and self._stream.closed:
            with contextlib.suppress(OSError):
                process.hang_up()

    def pump(self) -> None:
        """Hand the process's output to the client until there will be no more."""
        poll = select.poll()
        poll.register(self._gone, select.POLLIN)
        for fd in self._outputs:
            poll.register(fd, select.POLLIN)
        remaining = set(self._outputs)
        room = self._stream.max_payload - _FRAME.size
        while remaining:
            for fd, _ in poll.poll():
                if fd == self._gone:
                    return
                try:
                    data = os.read(fd, min(room, _CHUNK))
                except BlockingIOError:
                    continue
                except OSError:  # a terminal whose last process ended
                    data = b""
                if not data:
                    poll.unregister(fd)
                    remaining.remove(fd)
                elif self._request.framed:
                    self._stream.write(_FRAME.pack(self._outputs[fd], len(data)), data)
                else:
                    self._stream.write(data)

    def wait(self, process: Process) -> bool:
        """Whether the process has ended, once it has or the client left."""
        poll = select.poll()
        poll.register(self._gone, select.POLLIN)
        poll.register(process.report, select.POLLIN)
        return all(fd != self._gone for fd, _ in poll.poll())

    def finish(self) -> None:
        """Let `feed` return."""
        self._stream.end_input()
        self._wake()

    def close(self) -> None:
        """Give up what is still open."""
        # First: the number of a closed descriptor may be another session's by then.
        self._stream.on_close(None)
        for fd in {self._stdin, *self._outputs, self._gone} - {-1}:
            os.close(fd)

    def close_child(self) -> None:
        """Give up the process's ends."""
        for fd in set(self.child):
            os.close(fd)
        self.child = ()

    def _feed_message(self) -> None:
        kind, length = _FRAME.unpack(self._stream.read(_FRAME.size))
        if kind == _STDIN:
            for piece in self._stream.pieces(length):
                self._write_stdin(piece)
            return
        if length > _LARGEST_CONTROL_MESSAGE:
            raise StreamClosed
        data = self._stream.read(length)
        if kind == _CLOSE_STDIN:
            if self._terminal:
                self._write_stdin(memoryview(_END_OF_FILE))
            else:
                self._close_stdin()
        elif kind == _WINDOW_SIZE and self._terminal:
            self._resize(data)

    def _resize(self, text: bytes) -> None:
        """`text` is "ROWSxCOLUMNS,WIDTHxHEIGHT"."""
        with contextlib.suppress(ValueError, struct.error, OSError):
            numbers = text.rstrip(b"\0").replace(b",", b"x").split(b"x")
            size = struct.pack("<4H", *map(int, numbers))
            fcntl.ioctl(self._stdin, termios.TIOCSWINSZ, size)

    def _write_stdin(self, data: memoryview) -> None:
        """Write all of it. If its client is gone and the process does not read, nothing that
        comes later is written either: there must be no gap in what it gets.

        Raises:
            StreamClosed: the process did not read for a while, and its client is gone.
        """
        while data and self._stdin >= 0:
            try:
                data = data[os.write(self._stdin, data) :]
            except BlockingIOError:
                poll = select.poll()
                poll.register(self._stdin, select.POLLOUT)
                if not self._stream.closed:
                    poll.register(self._gone, select.POLLIN)
                    poll.poll()
                elif not poll.poll(_PATIENCE_MS):
                    raise StreamClosed from None
            except OSError:  # it closed its standard input: what else comes is for nobody
                return

    def _close_stdin(self) -> None:
        if self._stdin >= 0 and self._stdin not in self._outputs:
            os.close(self._stdin)
            self._stdin = -1

    def _wake(self) -> None:
        with contextlib.suppress(OSError):
            os.eventfd_write(self._gone, 1)


def _pipe() -> tuple[int, int]:
    read_end, write_end = os.pipe2(os.O_CLOEXEC)
    with contextlib.suppress(OSError):  # if the user has many pipes already
        fcntl.fcntl(write_end, fcntl.F_SETPIPE_SZ, _PIPE_SIZE)
    return read_end, write_end
