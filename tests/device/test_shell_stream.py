# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""adb's shell protocol over a socket pair, in whatever pieces it arrives."""

from __future__ import annotations

import socket
import struct
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moe_mobile.device.shell_stream import MAX_FRAME, ShellStream


def frame(kind: int, data: bytes) -> bytes:
    return struct.pack("<BI", kind, len(data)) + data


@given(
    st.lists(st.tuples(st.sampled_from([1, 2]), st.binary(max_size=40))),
    st.integers(0, 255),
    st.lists(st.integers(1, 60), max_size=20),
)
def test_output_and_exit_code_come_whole(
    frames: list[tuple[int, bytes]], code: int, pieces: list[int]
) -> None:
    wire = b"".join(frame(kind, data) for kind, data in frames) + frame(3, bytes([code]))
    ours, theirs = socket.socketpair()
    with theirs, ShellStream(ours, 60) as stream:
        position = 0
        for size in pieces:
            theirs.sendall(wire[position : position + size])
            position += size
        theirs.sendall(wire[position:])
        assert stream.wait() == code
        assert stream.stdout == b"".join(data for kind, data in frames if kind == 1)
        assert stream.stderr == b"".join(data for kind, data in frames if kind == 2)


def test_an_end_is_seen_without_waiting_and_differs_from_a_loss() -> None:
    for last, ended in ((frame(3, b"\1"), True), (b"", False)):
        ours, theirs = socket.socketpair()
        with ShellStream(ours, 60) as stream:
            assert not stream.has_ended()
            theirs.sendall(last)
            theirs.close()
            assert stream.has_ended() == ended
            if ended:
                assert stream.wait() == 1  # looking took nothing away
                assert stream.has_ended()
        assert stream.has_ended() == ended


def test_what_a_command_prints_is_not_its_end() -> None:
    ours, theirs = socket.socketpair()
    with theirs, ShellStream(ours, 300, most=100) as stream:
        said = frame(2, b"a warning\n")
        for part in (said, said[:3], said[3:], said + frame(3, b"\1")[:4]):
            theirs.sendall(part)
            assert not stream.has_ended()
        assert stream.stderr == b"a warning\n" * 3
        theirs.sendall(b"\0\1")
        assert stream.has_ended()
        assert stream.wait() == 1


def test_a_command_that_prints_too_much_stays_one() -> None:
    ours, theirs = socket.socketpair()
    with theirs, ShellStream(ours, 300, most=100) as stream:
        theirs.sendall(frame(2, bytes(101)))
        for look in (stream.has_ended, stream.has_ended, stream.wait, stream.has_ended):
            with pytest.raises(ConnectionAbortedError):
                look()


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("length", [0, 1, MAX_FRAME, 3 * MAX_FRAME + 7])
def test_input_goes_out_in_frames(length: int, last: bool) -> None:
    data = bytes(i % 251 for i in range(length))
    ours, theirs = socket.socketpair()
    received = bytearray()

    def device() -> None:
        while True:
            header = theirs.recv(5, socket.MSG_WAITALL)
            kind, size = struct.unpack("<BI", header)
            if kind == 4:
                break
            assert kind == 0
            assert size <= MAX_FRAME
            received.extend(theirs.recv(size, socket.MSG_WAITALL))
        theirs.sendall(frame(3, b"\0"))

    thread = threading.Thread(target=device)
    thread.start()
    with theirs, ShellStream(ours, 60) as stream:
        # The end alone, or with the last frame.
        assert stream.write(data, last=last)
        if not last:
            stream.close_stdin()
        assert stream.wait() == 0
        thread.join()
    assert received == data


def test_a_command_that_takes_no_more_still_says_why() -> None:
    ours, theirs = socket.socketpair()

    def device() -> None:
        theirs.recv(100)
        theirs.sendall(frame(2, b"No space left on device\n") + frame(3, b"\1"))
        theirs.close()

    thread = threading.Thread(target=device)
    thread.start()
    with ShellStream(ours, 60) as stream:
        assert not stream.write(bytes(40 << 20))
        assert stream.wait() == 1
        assert stream.stderr == b"No space left on device\n"
    thread.join()


def test_a_lost_device_is_an_error() -> None:
    ours, theirs = socket.socketpair()
    theirs.sendall(frame(1, b"some") + b"\1\0")
    theirs.close()
    with ShellStream(ours, 60) as stream:
        with pytest.raises(ConnectionError):
            stream.wait()
        assert stream.stdout == b"some"


def test_a_silent_device_is_an_error() -> None:
    ours, theirs = socket.socketpair()
    with theirs, ShellStream(ours, 0.05) as stream:
        with pytest.raises(TimeoutError):
            stream.wait()
        with pytest.raises(TimeoutError):
            stream.write(bytes(40 << 20))
