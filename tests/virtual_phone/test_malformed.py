# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""What the protocol forbids closes the connection, and the phone goes on."""

from __future__ import annotations

import os
import resource
import struct
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moe_mobile.virtual_phone import VirtualPhone, phones
from moe_mobile.virtual_phone.wire import AUTH, CLSE, CNXN, HEADER, MAX_PAYLOAD, OKAY, OPEN, WRTE
from tests.phones import StartPhone, wait_until
from tests.virtual_phone.raw import VERSION, RawClient, packet

COMMANDS = (CNXN, AUTH, OPEN, OKAY, CLSE, WRTE)
U32 = st.integers(0, 0xFFFFFFFF)
SMALL = st.one_of(st.integers(0, 5), U32)
FUZZ = settings(
    max_examples=60,
)


def alive(phone: VirtualPhone) -> bool:
    with RawClient(phone) as client:
        stream = client.open(b"exec:echo alive")
        assert stream is not None
        return client.ask(stream, b"") == b"alive\n"


@pytest.mark.parametrize(
    "data",
    [
        bytes(24),
        b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
        HEADER.pack(CNXN, VERSION, 1 << 20, 0, 0, 0),
        HEADER.pack(CNXN, VERSION, 1 << 20, MAX_PAYLOAD + 1, 0, CNXN ^ 0xFFFFFFFF),
        HEADER.pack(CNXN, VERSION, 1 << 20, 0xFFFFFFFF, 0, CNXN ^ 0xFFFFFFFF),
        packet(CNXN, 0, 1 << 20),
        packet(CNXN, VERSION, 0),
        packet(OPEN, 1, 0, b"shell:touch /data/local/tmp/unseen\0"),
        packet(WRTE, 1, 1, b"x"),
        packet(AUTH, 3, 0, b"key\0"),
        packet(0x12345678, 1, 1),
    ],
)
def test_a_stranger_is_cut_off(shared_phone: VirtualPhone, data: bytes) -> None:
    with RawClient(shared_phone, greet=False) as client:
        client.send(data)
        assert client.closed()
    assert alive(shared_phone)


def test_packets_for_unknown_streams_are_refused(shared_phone: VirtualPhone) -> None:
    with RawClient(shared_phone) as client:
        client.send(packet(CLSE, 7, 9) + packet(OKAY, 7, 9) + packet(CLSE, 0, 0))
        client.send(packet(WRTE, 7, 9, b"x"))
        assert client.receive() == (CLSE, 0, 7, b"")
        assert client.open(b"nonsense:") is None
        assert client.open(b"") is None
        client.send(packet(OPEN, 0, 0, b"shell:\0"))
        assert client.receive()[0] == CLSE


def test_a_stream_belongs_to_the_connection_that_opened_it(shared_phone: VirtualPhone) -> None:
    with RawClient(shared_phone) as client:
        stream = client.open(b"exec:cat")
        assert stream is not None
        client.send(packet(WRTE, stream[0] + 1, stream[1], b"forged"))
        assert client.receive() == (CLSE, 0, stream[0] + 1, b"")


def test_a_flood_of_streams_ends(shared_phone: VirtualPhone) -> None:
    with RawClient(shared_phone) as client:
        opened = [client.open(b"sync:") for _ in range(300)]
        assert opened[0] is not None
        assert opened[-1] is None
    assert alive(shared_phone)


def descriptors(phone: VirtualPhone) -> tuple[int, int]:
    """The phone's server, and how many descriptors it has open."""
    supervisor = phone.record["pid"]
    server = int(Path(f"/proc/{supervisor}/task/{supervisor}/children").read_text())
    return server, len(os.listdir(f"/proc/{server}/fd"))


def test_commands_give_back_their_descriptors(shared_phone: VirtualPhone) -> None:
    _, before = descriptors(shared_phone)
    with RawClient(shared_phone) as client:
        for service, data in {
            b"shell,v2,pty:true": b"",
            b"exec:": b"exit\n",
            b"shell,v2,raw:" + b"x" * (1 << 18): b"",  # too long a command line
            b"exec:trap '' HUP PIPE; sleep 8": None,  # outlasts its client
            b"exec:exec >&- 2>&-; sleep 8": None,
            b"exec:cat /dev/zero": None,
        }.items():
            stream = client.open(service)
            assert stream is not None
            if data is not None:
                client.ask(stream, data, quiet=0.5)
    wait_until(lambda: descriptors(shared_phone)[1] <= before)


def test_a_phone_works_with_few_file_descriptors(phone: StartPhone) -> None:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, before[1]))
    try:
        one = phone()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    server, count = descriptors(one)
    assert resource.prlimit(server, resource.RLIMIT_NOFILE)[0] > 64
    # None are left for a new client, nor for a look at what runs.
    limit = resource.prlimit(server, resource.RLIMIT_NOFILE, (count, before[1]))
    with RawClient(one, greet=False) as client:
        client.send(packet(CNXN, VERSION, 1 << 20, b"host::"))
        time.sleep(0.1)
        resource.prlimit(server, resource.RLIMIT_NOFILE, limit)
        assert client.receive()[0] == CNXN
    assert alive(one)


def test_a_flood_of_commands_ends(
    adb_server: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If the hard limit is low, which a process cannot raise again."""
    monkeypatch.setenv("MOE_MOBILE_PHONES_DIR", str(tmp_path))
    script = 'ulimit -n 200; exec "$0" -c "$1"'
    code = "from moe_mobile.virtual_phone import *; start(PhoneSettings(), connect=False)"
    subprocess.run(["sh", "-c", script, sys.executable, code], check=True)
    (one,) = phones()
    try:
        with RawClient(one) as client:
            opened = [client.open(b"shell,v2,raw:sleep 60") for _ in range(30)]
            assert None not in opened[:15]
            assert opened[15:] == [None] * 15
        with RawClient(one) as client:  # the commands are being hung up
            wait_until(lambda: client.open(b"exec:true") is not None)
    finally:
        one.stop()


def test_a_flood_of_data_ends(shared_phone: VirtualPhone) -> None:
    with RawClient(shared_phone) as client:
        stream = client.open(b"exec:sleep 20")
        assert stream is not None
        block = packet(WRTE, *stream, bytes(MAX_PAYLOAD))
        with pytest.raises(ConnectionError):
            client.send(block * 64)
    assert alive(shared_phone)


@pytest.mark.parametrize(
    "data",
    [
        struct.pack("<4sI", b"STAT", 0xFFFFFFFF),
        struct.pack("<4sI", b"NOPE", 0),
        struct.pack("<4sI", b"SEND", 5) + b"a,b,c",
        struct.pack("<4sI", b"STAT", 3) + b"a\0b",
        struct.pack("<4sI", b"SND2", 1) + b"a" + struct.pack("<4sII", b"SND2", 0o100644, 1),
        struct.pack("<4sI", b"RCV2", 1) + b"a" + struct.pack("<4sI", b"RCV2", 7),
        struct.pack("<4sI", b"SEND", 26)
        + b"/data/local/tmp/fuzz,33188"
        + struct.pack("<4sI", b"DATA", 65537),
    ],
)
def test_nonsense_for_the_file_service(shared_phone: VirtualPhone, data: bytes) -> None:
    with RawClient(shared_phone) as client:
        stream = client.open(b"sync:")
        assert stream is not None
        assert client.ask(stream, data)[:4] == b"FAIL"
    assert alive(shared_phone)


@FUZZ
@given(st.binary(max_size=200))
def test_any_bytes(shared_phone: VirtualPhone, data: bytes) -> None:
    with RawClient(shared_phone, greet=False) as client:
        client.send(data)
    assert alive(shared_phone)


@FUZZ
@given(
    st.lists(
        st.tuples(st.sampled_from(COMMANDS), SMALL, SMALL, st.binary(max_size=64)), max_size=12
    ),
    st.integers(0, 23),
)
def test_any_packets(
    shared_phone: VirtualPhone, packets: list[tuple[int, int, int, bytes]], cut: int
) -> None:
    data = b"".join(packet(*one) for one in packets)
    with RawClient(shared_phone) as client:
        client.send(data[: len(data) - cut])
    assert alive(shared_phone)


@FUZZ
@given(
    st.sampled_from([b"sync:", b"shell,v2:cat", b"shell,v2,pty:", b"exec:cat"]),
    st.lists(
        st.one_of(
            st.binary(max_size=40),
            st.builds(
                lambda kind, length, text: struct.pack("<4sI", kind, length) + text,
                st.sampled_from([b"STAT", b"STA2", b"LIST", b"SEND", b"RECV", b"DATA", b"DONE"]),
                st.one_of(st.integers(0, 40), U32),
                st.binary(max_size=40),
            ),
            st.builds(
                lambda kind, length, text: struct.pack("<BI", kind, length) + text,
                st.integers(0, 7),
                st.one_of(st.integers(0, 40), U32),
                st.binary(max_size=40),
            ),
        ),
        max_size=6,
    ),
)
def test_any_data_for_services(
    shared_phone: VirtualPhone, service: bytes, parts: list[bytes]
) -> None:
    with RawClient(shared_phone) as client:
        stream = client.open(service)
        assert stream is not None
        for part in parts:
            client.send(packet(WRTE, *stream, part))
    assert alive(shared_phone)
