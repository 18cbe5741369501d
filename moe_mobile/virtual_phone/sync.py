# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""The file service, `sync:`: STAT, LIST, SEND and RECV in versions 1 and 2.

Its thread is the shell user without capabilities, and the whole server lives in the phone's root
file system: what a path may reach is the kernel's decision alone. Source: AOSP's
packages/modules/adb, SYNC.TXT and file_sync_service.cpp.
"""

from __future__ import annotations

import contextlib
import os
import stat
import struct

from moe_mobile.virtual_phone.stream import Stream, StreamClosed

_HEADER = struct.Struct("<4sI")
_STAT_1 = struct.Struct("<III")
_STAT_2 = struct.Struct("<QQIIIIQqqq")
_SEND_2 = struct.Struct("<4sII")
_LONGEST_PATH = 1024
_LARGEST_DATA = 64 << 10
_LONGEST_LINK = 4096
_U32 = 0xFFFFFFFF
_NEW_FOLDER_MODE = 0o775


class _End(Exception):
    """The client asked for the end, or what it sent makes no sense."""


def serve_sync(stream: Stream) -> None:
    """Answer requests until the client quits."""
    service = _Sync(stream)
    try:
        while True:
            service.answer()
    except _End:
        return


class _Sync:
    def __init__(self, stream: Stream) -> None:
        self._stream = stream

    def answer(self) -> None:
        request, length = _HEADER.unpack(self._stream.read(_HEADER.size))
        if length > _LONGEST_PATH:
            self._fail("path too long")
            raise _End
        path = self._stream.read(length)
        if b"\0" in path:
            self._fail("path with a zero byte")
            raise _End
        if request == b"STAT":
            self._stat_1(path)
        elif request in (b"STA2", b"LST2"):
            self._stat_2(request, path)
        elif request in (b"LIST", b"LIS2"):
            self._list(path, version_2=request == b"LIS2")
        elif request == b"SEND":
            path, _, mode = path.rpartition(b",")
            if not mode.isdigit() or len(mode) > 10:
                self._fail("no file mode")
                raise _End
            self._receive_file(path, int(mode))
        elif request == b"SND2":
            _, mode_2, flags = _SEND_2.unpack(self._stream.read(_SEND_2.size))
            self._no_flags(flags)
            self._receive_file(path, mode_2)
        elif request == b"RECV":
            self._send_file(path)
        elif request == b"RCV2":
            self._no_flags(_HEADER.unpack(self._stream.read(_HEADER.size))[1])
            self._send_file(path)
        else:
            if request != b"QUIT":
                self._fail("unknown request")
            raise _End

    def _fail(self, text: str) -> None:
        data = text.encode()
        self._stream.write(_HEADER.pack(b"FAIL", len(data)), data)

    def _no_flags(self, flags: int) -> None:
        if flags:  # compression, which we do not offer
            self._fail(f"unsupported flags {flags:#x}")
            raise _End

    def _stat_1(self, path: bytes) -> None:
        try:
            status = os.lstat(path)
        except OSError:
            self._stream.write(b"STAT", bytes(_STAT_1.size))
        else:
            self._stream.write(b"STAT", _pack_1(status))

    def _stat_2(self, request: bytes, path: bytes) -> None:
        try:
            status = os.stat(path) if request == b"STA2" else os.lstat(path)
        except OSError as error:
            answer = _HEADER.pack(request, error.errno or 1) + bytes(_STAT_2.size)
        else:
            answer = _HEADER.pack(request, 0) + _pack_2(status)
        self._stream.write(answer)

    def _list(self, path: bytes, *, version_2: bool) -> None:
        out = bytearray()
        try:
            names = [b".", b"..", *os.listdir(path)]
        except OSError:
            names = []
        for name in names:
            try:
                status = os.lstat(os.path.join(path, name))
            except OSError:
                continue  # gone meanwhile
            if version_2:
                out += _HEADER.pack(b"DNT2", 0) + _pack_2(status)
            else:
                out += b"DENT" + _pack_1(status)
            out += struct.pack("<I", len(name)) + name
        size = _HEADER.size + _STAT_2.size if version_2 else 4 + _STAT_1.size
        self._stream.write(bytes(out) + b"DONE" + bytes(size))

    def _send_file(self, path: bytes) -> None:
        try:
            file = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except OSError as error:
            self._fail(f"open failed: {error.strerror}")
            return
        try:
            if not stat.S_ISREG(os.fstat(file).st_mode):
                self._fail("read failed: not a regular file")
                return
            while True:
                # DONE rides with the last DATA: alone it would wait for an acknowledgement.
                parts: list[bytes] = []
                room = self._stream.max_payload - _HEADER.size
                while room > _LARGEST_DATA + _HEADER.size:
                    data = os.read(file, _LARGEST_DATA)
                    if not data:
                        self._stream.write(*parts, _HEADER.pack(b"DONE", 0))
                        return
                    parts += (_HEADER.pack(b"DATA", len(data)), data)
                    room -= _HEADER.size + len(data)
                if not parts:  # a client of tiny packets
                    data = os.read(file, room - _HEADER.size)
                    end = b"" if data else _HEADER.pack(b"DONE", 0)
                    parts = [_HEADER.pack(b"DATA", len(data)), data] if data else [end]
                    self._stream.write(*parts)
                    if end:
                        return
                    continue
                self._stream.write(*parts)
        except OSError as error:
            self._fail(f"read failed: {error.strerror}")
        finally:
            os.close(file)

    def _receive_file(self, path: bytes, mode: int) -> None:
        if stat.S_ISLNK(mode):
            self._receive_link(path)
            return
        problem: str | None = None
        file = -1
        try:
            file = _create(path, mode)
        except OSError as error:
            problem = f"couldn't create file: {error.strerror}"
            self._fail(problem)
        try:
            while True:
                kind, length = _HEADER.unpack(self._stream.read(_HEADER.size))
                if kind == b"DONE":
                    break
                if kind != b"DATA" or length > _LARGEST_DATA:
                    self._fail("invalid data message")
                    raise _End
                for piece in self._stream.pieces(length):
                    if problem is not None:
                        continue  # the client reads the failure once it has sent everything
                    try:
                        while piece:
                            piece = piece[os.write(file, piece) :]
                    except OSError as error:
                        problem = f"write failed: {error.strerror}"
                        self._fail(problem)
            if problem is None:
                os.utime(file, (length, length))
        except (StreamClosed, _End):
            problem = "cut"
            raise
        finally:
            if file >= 0:
                os.close(file)
                if problem is not None:
                    with contextlib.suppress(OSError):
                        os.unlink(path)
        if problem is not None:
            raise _End
        self._stream.write(_HEADER.pack(b"OKAY", 0))

    def _receive_link(self, path: bytes) -> None:
        target = b""
        while True:
            kind, length = _HEADER.unpack(self._stream.read(_HEADER.size))
            if kind == b"DONE":
                break
            if kind != b"DATA" or len(target) + length > _LONGEST_LINK:
                self._fail("invalid data message")
                raise _End
            target += self._stream.read(length)
        try:
            _make_parents(path)
            _remove_old(path)
            os.symlink(target.rstrip(b"\0"), path)
        except (OSError, ValueError) as error:
            self._fail(f"couldn't create symlink: {error}")
            raise _End from error
        self._stream.write(_HEADER.pack(b"OKAY", 0))


def _pack_1(status: os.stat_result) -> bytes:
    return _STAT_1.pack(status.st_mode, status.st_size & _U32, int(status.st_mtime) & _U32)


def _pack_2(status: os.stat_result) -> bytes:
    times = (int(status.st_atime), int(status.st_mtime), int(status.st_ctime))
    ids = (status.st_uid, status.st_gid)
    head = (status.st_dev, status.st_ino, status.st_mode, status.st_nlink & _U32)
    return _STAT_2.pack(*head, *ids, status.st_size, *times)


def _create(path: bytes, mode: int) -> int:
    _make_parents(path)
    _remove_old(path)
    # As on Android: the owner's rights are everybody's.
    mode &= 0o777
    mode |= (mode >> 3) & 0o070
    mode |= (mode >> 3) & 0o007
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    file = os.open(path, flags, mode)
    os.fchmod(file, mode)
    return file


def _make_parents(path: bytes) -> None:
    """Make the folders above `path`, all with Android's mode (os.makedirs: only the last)."""
    folder = os.path.dirname(path)
    if folder and not os.path.isdir(folder):
        _make_parents(folder)
        with contextlib.suppress(FileExistsError):
            os.mkdir(folder, _NEW_FOLDER_MODE)


def _remove_old(path: bytes) -> None:
    with contextlib.suppress(FileNotFoundError):
        mode = os.lstat(path).st_mode
        if stat.S_ISREG(mode) or stat.S_ISLNK(mode):
            os.unlink(path)
