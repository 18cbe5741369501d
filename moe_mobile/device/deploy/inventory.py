# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""What is in our folder on a device, and which files were verified before.

moe-mobile/bundles/<id>/          a deployment that is complete
moe-mobile/bundles/<id>.partial/  one on its way
moe-mobile/bundles/<id>.sums      what was verified: SHA-256, bytes, mtime and path per line
moe-mobile/runtime/<id>/ ...      engines, in the same way
"""

from __future__ import annotations

import dataclasses
import os
import pathlib
import re
from collections.abc import Iterable

from moe_mobile.device.script_output import free_bytes
from moe_mobile.errors import UsageError

FOLDER_VARIABLE = "MOE_MOBILE_PHONE_FOLDER"
"""Environment variable that names another folder than `moe-mobile`."""


def phone_root() -> str:
    """The one place of a phone that adb may write to and run programs from.

    Raises UsageError if the environment names a folder that cannot be.
    """
    name = os.environ.get(FOLDER_VARIABLE) or "moe-mobile"
    if not re.fullmatch(r"[\w-][\w.-]{0,63}", name, re.ASCII):
        raise UsageError(
            f"invalid name of a folder {name!r}",
            setting=FOLDER_VARIABLE,
            remedy="Use letters, digits, -, _ and .",
        )
    return f"/data/local/tmp/{name}"


_SUM = re.compile(r"([0-9a-f]{64}) ([0-9]{1,15}) ([0-9]{1,15}) (\S+)")
_FOLDER = re.compile(r"([a-z]+/[\w.-]+)/", re.ASCII)
_FILE = re.compile(r"([0-9]{1,15}) ([0-9]{1,15}) (\S+)")
_ROOMS = ("bundles", "runtime")


@dataclasses.dataclass(frozen=True)
class Present:
    """A file on the device. ``mtime``: seconds; ``sha256``: None if not verified as it is."""

    bytes: int
    mtime: int
    sha256: str | None = None


@dataclasses.dataclass(frozen=True)
class Inventory:
    """Files by path below :func:`phone_root`, free bytes, and what the sums vouch for.

    ``vouched`` has the SHA-256 of every file that was once verified, though it may be gone since.
    ``made``: paths of the folders that are there, empty ones too.
    """

    files: dict[str, Present]
    vouched: dict[str, str]
    free_bytes: int
    made: frozenset[str] = frozenset()

    def folders(self, room: str) -> set[str]:
        """Names in ``bundles`` or ``runtime``: ids, with ``.partial`` while they are being sent."""
        parts = (path.split("/", 2) for path in [*self.files, *self.vouched])
        names = {part[1] for part in parts if part[0] == room and len(part) == 3}
        start = room + "/"
        return names | {path.removeprefix(start) for path in self.made if path.startswith(start)}

    def below(self, folder: str) -> dict[str, Present]:
        """Files in a folder, by path relative to it."""
        start = folder + "/"
        return {
            path.removeprefix(start): file
            for path, file in self.files.items()
            if path.startswith(start)
        }


def inventory_script() -> str:
    """Prints all that :func:`parse_inventory` wants, and leaves the device as it was."""
    root = phone_root()
    return f"""
if ! cd {root} 2>/dev/null; then df -k {pathlib.PurePosixPath(root).parent}; exit; fi
df -k .
for sums in bundles/*.sums runtime/*.sums; do
  [ -f "$sums" ] && echo "@@@ sums ${{sums%.sums}}" && cat "$sums"
done
echo "@@@ folders"
for folder in bundles/*/ runtime/*/; do
  [ ! -d "$folder" ] || echo "$folder"
done
echo "@@@ files"
for room in bundles runtime; do
  [ ! -d $room ] || find $room -type f ! -name '*.free' -exec stat -c '%s %Y %n' {{}} + || exit
done
"""


def parse_inventory(text: str) -> Inventory:
    """The inventory in what the script printed; lines of another form are passed over.

    Raises ValueError if it does not begin with the free space, as the script always does: a text
    that is cut or none of ours would count as an empty phone.
    """
    sections = re.split(r"^@@@ (.*)\n", text, flags=re.MULTILINE)
    free = free_bytes(sections[0])
    if free is None:
        raise ValueError(sections[0])
    sums: dict[str, tuple[str, int, int]] = {}
    files: dict[str, Present] = {}
    made: set[str] = set()
    for title, body in zip(sections[1::2], sections[2::2], strict=True):
        kind, _, folder = title.partition(" ")
        if kind == "sums":
            for match in filter(None, map(_SUM.fullmatch, body.splitlines())):
                path = f"{folder}/{match[4]}"
                if _is_ours(path):
                    sums[path] = (match[1], int(match[2]), int(match[3]))
        elif kind == "folders":
            found = filter(None, map(_FOLDER.fullmatch, body.splitlines()))
            made |= {match[1] for match in found if _is_ours(f"{match[1]}/any")}
        elif kind == "files":
            for match in filter(None, map(_FILE.fullmatch, body.splitlines())):
                size, mtime, path = int(match[1]), int(match[2]), match[3]
                if not _is_ours(path):
                    continue
                known = sums.get(path)
                same = known is not None and known[1:] == (size, mtime)
                files[path] = Present(size, mtime, known[0] if known and same else None)
    return Inventory(
        files=files,
        vouched={path: known[0] for path, known in sums.items()},
        free_bytes=free,
        made=frozenset(made),
    )


def _is_ours(path: str) -> bool:
    """Whether it is a file in a folder of ours, and stays in it."""
    room, *parts = path.split("/")
    return room in _ROOMS and len(parts) >= 2 and not {"", ".", ".."} & set(parts)


def parse_listing(text: str) -> dict[str, Present]:
    """Files by path in lines `bytes mtime path`. Raises ValueError for any other line."""
    found: dict[str, Present] = {}
    for line in text.splitlines():
        match = _FILE.fullmatch(line)
        if match is None:
            raise ValueError(line)
        found[match[3].removeprefix("./")] = Present(int(match[1]), int(match[2]))
    return found


def sums_lines(files: Iterable[tuple[str, Present]]) -> str:
    """The text of a `.sums` file, for files with a SHA-256."""
    return "".join(
        f"{file.sha256} {file.bytes} {file.mtime} {path}\n" for path, file in sorted(files)
    )
