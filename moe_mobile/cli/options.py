# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""Options that several commands share: single ones, and groups that are one value each."""

from __future__ import annotations

import contextlib
import pathlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, TypeVar

import click

from moe_mobile.base.files import reading
from moe_mobile.base.json_text import json_text
from moe_mobile.cli.commands import again, group_of, option, option_of
from moe_mobile.cli.types import OUTPUT, PATH, CacheSize, Choice, Whole
from moe_mobile.errors import (
    BudgetError,
    CancelledError,
    MoeMobileError,
    UsageError,
    did_you_mean,
)
from moe_mobile.settings import MOST_NUMBER, EngineSettings

if TYPE_CHECKING:
    from moe_mobile.device.select import Opened
    from moe_mobile.quality.file import QualityFile
    from moe_mobile.routing.capacity import Capacity

_Command = TypeVar("_Command", bound=Callable[..., Any])

RESIDENCIES = ("slots", "programs", "resident")

INITIAL_CACHES = ("auto", "warm", "cold", "prompt")
"""Values of ``--initial-cache`` that name no file."""

bundle_argument = click.argument("bundle", type=PATH)

json_option = click.option(
    "--json", "as_json", is_flag=True, help="Print one JSON object, errors included."
)


_SERIAL = (
    "adb's serial, HOST:PORT for Wi-Fi, or `any` for the one connected or named by ANDROID_SERIAL"
)


def phone_option(what: str) -> Callable[[_Command], _Command]:
    """``--device``; ``what`` is done on the phone."""
    return click.option(
        "-s",
        "--device",
        "device",
        metavar="SERIAL",
        help=f"{what} this phone: {_SERIAL}.  [default: this machine]",
    )


device_option = phone_option("Run on")


def echo_json(value: object) -> None:
    """Print a command's JSON answer."""
    click.echo(json_text(value, indent=2))


def phones_help(default: str) -> str:
    """Of ``--device`` where several may be given."""
    return f"A phone: {_SERIAL}; several may be given.  [default: {default}]"


@dataclass(frozen=True)
class DevicesOptions:
    """Any number of devices."""

    devices: tuple[str, ...] = option(
        "-s",
        "--device",
        multiple=True,
        metavar="SERIAL",
        help=phones_help("this machine"),
    )
    every: bool = option("--all", is_flag=True, help="Every phone that is connected.")

    def open(self, *, otherwise: str | None) -> Opened:
        """Open them, or ``otherwise`` if none was named; as :func:`open_devices`."""
        from moe_mobile.device.select import open_devices

        return open_devices(self.devices, every=self.every, otherwise=otherwise)


@dataclass(frozen=True)
class CacheOptions:
    """What is cached, and how experts are chosen: settings of :class:`moe_mobile.Engine`."""

    cache: str = option(
        "--cache",
        type=CacheSize(),
        default="50%",
        help="Memory for experts: a share of them (50%), a size (512MiB) or auto.",
    )
    routing: str = option(
        "--routing",
        default="exact",
        metavar="METHOD",
        help="How experts are chosen: exact is the model's own choice; cache-prior:auto and other "
        "methods prefer those in the cache, and change the output (docs/routing/README.md).",
    )
    precision: str = option(
        "--precision",
        default="full",
        metavar="full|low|ranks:N",
        help="For a bundle with several precisions of its experts: low runs them in the second, "
        "ranks:N all but the N best of each token. Both change the output.",
    )
    initial_cache: str = option(
        "--initial-cache",
        default="auto",
        metavar="STATE|FILE",
        help="What is cached when decoding begins: warm (what was left there), cold (nothing), "
        "prompt (what the prompt leaves), the profile in FILE; auto: warm for exact routing, else "
        "prompt.",
    )
    pool: str = option(
        "--pool",
        type=Choice(("auto", "global", "layer")),
        default="auto",
        help="One cache for all layers, or one for each; auto: global for exact routing, else "
        "layer.",
    )
    eviction: str = option(
        "--eviction",
        default="lru",
        metavar="POLICY",
        help="What leaves the cache: lru, lfu or lfu:DECAY.",
    )
    allow_below_cycle: bool = option(
        "--allow-below-cycle",
        is_flag=True,
        help="Run even if the cache holds less than one token uses, and so never hits.",
    )

    @property
    def profile(self) -> pathlib.Path | None:
        """The file that ``--initial-cache`` names, if it names one."""
        return profile_path(self.initial_cache)


@dataclass(frozen=True)
class ReadingOptions:
    """How weights are read and computed with: settings of :class:`moe_mobile.Engine`."""

    residency: str = option(
        "--residency",
        type=Choice(RESIDENCIES),
        default="slots",
        help="slots: swap weights under live programs; programs: load a program per miss; "
        "resident: everything in memory.",
    )
    lanes: int = option(
        "--lanes",
        type=Whole(1, 16),
        default=2,
        help="Reads in flight at once.",
    )
    threads: int | None = option(
        "-t",
        "--threads",
        type=Whole(1, 256),
        help="Threads that compute.  [default: the machine's cores]",
    )
    context: int | None = option(
        "-c",
        "--context",
        type=Whole(1, MOST_NUMBER),
        help="Positions to keep keys and values for.  [default: the model's, at most 4096]",
    )
    packed_dir: pathlib.Path | None = option(
        "--packed-dir",
        type=PATH,
        help="Folder of the packed weights.  [default: BUNDLE/.packed/<cpu>]",
    )


@dataclass(frozen=True)
class StreamingOptions(ReadingOptions):
    """The same for a text that is scored with a cache. With all experts in memory there is none."""

    residency: str = again(
        ReadingOptions,
        "residency",
        type=Choice(RESIDENCIES[:2]),
        help="slots: swap weights under live programs; programs: load a program per miss.",
    )


@dataclass(frozen=True)
class LabOptions:
    """Routings and caches for a text or a trace: every routing with each cache."""

    capacity: str = option(
        "--cache",
        default="50%",
        metavar="LIST",
        help="What the cache holds: shares of the experts, or experts per layer.",
    )
    routings: tuple[str, ...] = option(
        "--routing",
        multiple=True,
        default=("exact",),
        metavar="METHOD,...",
        help="How experts are chosen; may be given several times.",
    )
    eviction: str = again(CacheOptions, "eviction")
    pool: str = again(
        CacheOptions,
        "pool",
        type=Choice(("layer", "global")),
        default="layer",
        help="A cache for each layer, or one of the same size for all together.",
    )

    def capacities(self) -> list[Capacity]:
        """Raises UsageError for an invalid list of capacities."""
        from moe_mobile.routing.capacity import parse_capacity  # imports numpy

        return [parse_capacity(part) for part in self.capacity.split(",")]


@dataclass(frozen=True)
class ScoredOptions(LabOptions):
    """The same for what is scored, which may be in several precisions."""

    precisions: tuple[str, ...] = again(
        CacheOptions,
        "precision",
        multiple=True,
        default=("full",),
        metavar="full|low|ranks:N,...",
        help="For a bundle with several precisions of its experts: score every routing in each of "
        "these; may be given several times. exact in full precision is always scored.",
    )


@dataclass(frozen=True)
class RowsOptions:
    """A file that keeps rows, so that an interrupted run can be continued."""

    rows: pathlib.Path | None = option(
        "-o",
        "--out",
        type=OUTPUT,
        help="Also keep rows in this file of JSON lines; each is on disk before the next one "
        "starts.",
    )
    resume: bool = option(
        "--resume", is_flag=True, help="Continue --out: measure only the rows that are missing."
    )

    def check(self) -> None:
        """Raises UsageError for ``--resume`` without a file."""
        if self.resume and self.rows is None:
            raise UsageError("--resume needs --out", remedy="Name the file to continue with --out")

    @contextlib.contextmanager
    def running(self) -> Iterator[contextlib.ExitStack]:
        """Closes files in the end. Errors say how to go on, and Ctrl-C is a CancelledError."""
        try:
            with contextlib.ExitStack() as files:
                yield files
        except KeyboardInterrupt:
            raise CancelledError("stopped by the user") from None
        except MoeMobileError as error:
            raise self.resumable(error) from error

    def open_scores(self, files: contextlib.ExitStack) -> QualityFile | None:
        """The file of `quality` and `tune`, if it was named."""
        from moe_mobile.quality.file import QualityFile  # imports numpy

        if self.rows is None:
            return None
        return files.enter_context(contextlib.closing(QualityFile(self.rows, resume=self.resume)))

    def resumable(self, error: MoeMobileError) -> MoeMobileError:
        """The error, with how to go on if there is a file that keeps rows."""
        # What does not fit fails the same way again.
        if self.rows is None or isinstance(error, CancelledError | UsageError | BudgetError):
            return error
        go_on = f"--out {self.rows} --resume measures what is missing"
        remedy = go_on if error.remedy is None else f"{error.remedy.rstrip('.')}. {go_on}"
        return error.replaced(remedy=remedy)


packed_dir_option = option_of(ReadingOptions, "packed_dir")
devices_options = group_of(DevicesOptions, "devices")
cache_options = group_of(CacheOptions, "cached")
reading_options = group_of(ReadingOptions, "reading")
streaming_options = group_of(StreamingOptions, "reading")
rows_options = group_of(RowsOptions, "kept")


def names_of(*groups: type[Any]) -> set[str]:
    """Names of the parameters that groups of options have."""
    return {field.name for group in groups for field in fields(group)}


def engine_settings(bundle: pathlib.Path, *groups: Any) -> EngineSettings:
    """What groups of options say, the defaults for everything else.

    Raises as :func:`initial_cache_settings`.
    """
    values = {name: value for group in groups for name, value in vars(group).items()}
    if "initial_cache" in values:
        values |= initial_cache_settings(values["initial_cache"], bundle)
    return EngineSettings().with_values(values)


def profile_path(initial_cache: str, states: Sequence[str] = INITIAL_CACHES) -> pathlib.Path | None:
    """The file that a value of ``--initial-cache`` names; None for a state."""
    return None if initial_cache in states else pathlib.Path(initial_cache)


def require_profile(initial_cache: str, states: Sequence[str] = INITIAL_CACHES) -> str | None:
    """The same file, which must be there.

    Raises UsageError if it is not, and IoError if that cannot be found out.
    """
    path = profile_path(initial_cache, states)
    if path is None:
        return None
    with reading(path):
        is_there = bool(initial_cache) and path.exists()
    if is_there:
        return initial_cache
    raise UsageError(
        f"{initial_cache!r} is neither a state of the cache nor a file",
        setting="--initial-cache",
        remedy=did_you_mean(
            initial_cache,
            states,
            f"Valid values: {', '.join(states)}, or a file that `moe-mobile "
            "simulate --save-profile` wrote",
        ),
    )


def initial_cache_settings(text: str, bundle: pathlib.Path) -> dict[str, Any]:
    """Engine settings for the value of ``--initial-cache``.

    Raises what reading a profile and a manifest does, and UsageError for another model's profile.
    """
    file = require_profile(text)
    if file is None:
        return {"initial_cache": text}
    from moe_mobile.bundle.reader import read_manifest
    from moe_mobile.routing.profile import read_profile

    profile, manifest = read_profile(file), read_manifest(bundle)
    try:
        profile.of(manifest.model.name, manifest.moe_layers, manifest.moe.num_experts)
    except UsageError as error:
        raise UsageError(error.cause, file=file, remedy=error.remedy) from None
    return {"initial_cache": "profile", "cache_profile": profile.layers}
