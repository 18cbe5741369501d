# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""Changes to a file of the packed store, after which its checksums, and its seal, are right again.

The format is in ``bundle/packed_file.h``.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import struct
from pathlib import Path

BLOB = 16384
ENTRY = 56
SEAL = 32
FOOTER = 32


def crc32c(data: bytes) -> int:
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 & -(crc & 1))
    return crc ^ 0xFFFFFFFF


def machine_secret(state: Path | None = None) -> bytes:
    """The secret of the machine that the tests run on."""
    folder = Path(os.environ["MOE_MOBILE_STATE_DIR"]) if state is None else state
    return (folder / "machine.secret").read_bytes()


class PackedBytes:
    """A packed file: ``data``, everything before its index, and the ``entries`` of the index."""

    def __init__(self, path: Path) -> None:
        self.path = path
        whole = bytearray(path.read_bytes())
        (index,) = struct.unpack_from("<Q", whole, len(whole) - FOOTER)
        end = len(whole) - FOOTER - SEAL
        self.data = whole[:index]
        self.entries = [whole[at : at + ENTRY] for at in range(index, end, ENTRY)]
        self.seal = bytes(whole[end : end + SEAL])

    def place(self, blob: int) -> slice:
        offset, length = struct.unpack_from("<QQ", self.entries[blob])
        return slice(offset, offset + length)

    def source(self, blob: int) -> bytes:
        return bytes(self.entries[blob][24:])

    def right_blob_checksum(self, blob: int) -> None:
        checksum = crc32c(bytes(self.data[self.place(blob)]))
        struct.pack_into("<I", self.entries[blob], 16, checksum)

    def save(self, secret: bytes | None = None) -> None:
        """Writes the file with right checksums of header, index and footer. The seal is right too
        with the machine's ``secret``, else that of the file as it was."""
        self.data[BLOB - 4 : BLOB] = struct.pack("<I", crc32c(bytes(self.data[: BLOB - 4])))
        index = b"".join(self.entries)
        footer = struct.pack("<QQII", len(self.data), len(self.entries), crc32c(index), 0)
        footer += struct.pack("<I", crc32c(footer)) + b"END1"
        seal = self.seal
        if secret is not None:
            blobs = hashlib.sha256()
            for blob, entry in enumerate(self.entries):
                if struct.unpack_from("<I", entry, 20) == (1,):
                    blobs.update(self.data[self.place(blob)])
            message = bytes(self.data[:BLOB]) + blobs.digest() + index + footer
            seal = hmac.digest(secret, message, "sha256")
        # A new file, as an archive that is unpacked makes it.
        self.path.unlink()
        self.path.write_bytes(bytes(self.data) + index + seal + footer)
