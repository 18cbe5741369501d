# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""Typed errors are also the built-in ones, and survive processes."""

from __future__ import annotations

import copy
import errno
import pickle
from pathlib import Path

import pytest

from moe_mobile import errors
from moe_mobile.base.files import write_file
from moe_mobile.base.json_field import parse_strict_json
from moe_mobile.errors import BY_CODE, MoeMobileError, read_error, write_error

BUILT_IN = {
    "usage": ValueError,
    "unsupported": NotImplementedError,
    "bundle_invalid": ValueError,
    "bundle_corrupt": ValueError,
    "checkpoint": ValueError,
    "io": OSError,
    "disk_full": OSError,
    "read_only": PermissionError,
    "budget": MemoryError,
    "runtime": RuntimeError,
    "killed": RuntimeError,
    "device": ConnectionError,
    "cancelled": Exception,
}


def test_the_tree_is_complete() -> None:
    """Every error has a built-in one, and the docstring shows it."""
    assert set(BUILT_IN) == set(BY_CODE)
    for code, kind in BY_CODE.items():
        assert issubclass(kind, BUILT_IN[code])
        (line,) = [
            line for line in (errors.__doc__ or "").splitlines()
            if line.split()[:1] == [kind.__name__]
        ]  # fmt: skip
        if code != "cancelled":
            assert f"({BUILT_IN[code].__name__})" in line
    assert not issubclass(errors.CancelledError, KeyboardInterrupt)


@pytest.mark.parametrize("kind", BY_CODE.values(), ids=BY_CODE)
def test_errors_keep_their_parts(kind: type[MoeMobileError]) -> None:
    error = kind("the cause", file="a/file", remedy="Do that")
    for same in (error, pickle.loads(pickle.dumps(error)), copy.copy(error), error.replaced()):
        assert type(same) is kind
        assert str(same) == "a/file: the cause. Do that"
        assert same.args == ("the cause",)
        assert same.as_dict() == error.as_dict()
    assert str(kind("the cause", setting="cache")) == "cache: the cause"
    assert str(error.replaced(file=None, cause="another")) == "another. Do that"


def test_system_errors_have_what_oserror_has() -> None:
    full = errors.DiskFullError("no space left", file="a/file")
    assert (full.errno, full.filename, full.strerror) == (errno.ENOSPC, "a/file", "no space left")
    quota = write_error(OSError(errno.EDQUOT, "Quota exceeded"), "a/file")
    assert isinstance(quota, errors.DiskFullError)
    assert pickle.loads(pickle.dumps(quota)).errno == errno.EDQUOT
    missing = read_error(FileNotFoundError(errno.ENOENT, "No such file"), "a/file")
    assert isinstance(missing, errors.IoError)
    assert missing.errno == errno.ENOENT
    assert errors.IoError("is not a regular file").errno is None


@pytest.mark.parametrize("kind", [errors.IoError, errors.DeviceError])
def test_a_typed_error_is_not_wrapped_again(kind: type[MoeMobileError], tmp_path: Path) -> None:
    """It is an OSError, and code that turns those into typed errors meets it."""
    error = kind("the cause", file="a/file", remedy="Do that")
    assert isinstance(error, OSError)
    assert read_error(error, "other") is error
    assert write_error(error, "other") is error

    def fail(file: object) -> None:
        raise error

    with pytest.raises(kind) as caught:
        write_file(tmp_path / "out", fail)
    assert str(caught.value) == "a/file: the cause. Do that"


def test_a_refused_number_is_not_called_bad_json() -> None:
    """The parser's hooks raise a typed error, which is a ValueError too."""
    with pytest.raises(errors.BundleInvalidError, match="holds NaN") as caught:
        parse_strict_json(b"[NaN]", "bundle.json")
    assert "valid JSON" not in caught.value.cause


def test_what_an_error_quotes_is_shortened() -> None:
    error = errors.CheckpointError(
        f"tensor {'a' * 10_000_000} is missing", file="a/file", remedy=f"Rename {'b' * 1000}"
    )
    name, other = "a" * 150 + "..." + "a" * 47, "b" * 150 + "..." + "b" * 47
    assert str(error) == f"a/file: tensor {name} is missing. Rename {other}"
    assert error.args == (error.cause,)
    many = errors.UsageError("begins " + "1, " * 5_000_000 + "and ends")
    assert len(many.cause) == 4096
    assert many.cause.startswith("begins 1, 1")
    assert "..." in many.cause
    assert many.cause.endswith(", and ends")
    system = errors.IoError("x" * 1000)
    assert system.strerror == system.cause
    assert len(system.cause) == 200


def test_paths_are_not_shortened() -> None:
    path = "/".join(["d" * 255] * 15)
    error = errors.UsageError(f"{path} is not one", file=path, remedy=f"Look into {path}")
    assert str(error) == f"{path}: {path} is not one. Look into {path}"
