# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""Files of one JSON document: how they are read, and their version."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import TypeVar

from moe_mobile.base.json_field import MAX_INTEGER, JsonField, parse_strict_json
from moe_mobile.errors import (
    BundleInvalidError,
    UnsupportedError,
    UsageError,
)

T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class Format:
    """A JSON document of this project.

    Attributes:
        mark: the member that holds the version.
        version: the one that this build knows.
        missing: the cause of the error if the member is missing.
        name: as in "the trace has".
        remedy: for a broken document.
        newer: remedy for a document of another version.
    """

    mark: str
    version: int
    missing: str
    name: str
    remedy: str
    newer: str

    def parse(self, data: bytes, file: str, make: Callable[[JsonField], T]) -> T:
        """The document, parsed by ``make``. The version is checked before anything else.

        Raises:
            UsageError: it is not such a document, or damaged.
            UnsupportedError: it has another version, or values that this build does not know.
        """
        try:
            root = JsonField(parse_strict_json(data, file), "", file)
            root.expect_object()
            if not root.has(self.mark):
                root.fail(self.missing)
            version = root[self.mark].integer(0, MAX_INTEGER)
            if version != self.version:
                cause = f"{self.name} version {version}, this build knows {self.version}"
                raise UnsupportedError(cause)
            return make(root)
        except (BundleInvalidError, UsageError) as error:
            raise UsageError(error.cause, file=file, remedy=self.remedy) from error
        except UnsupportedError as error:
            raise UnsupportedError(error.cause, file=file, remedy=self.newer) from error
