# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""Options that several commands share, and the shape of a command."""

from __future__ import annotations

import json
import pathlib
from collections.abc import Callable
from typing import Any, TypeVar

import click

from moe_mobile.base.text import parse_size
from moe_mobile.errors import UsageError

__all__ = [
    "BUNDLE",
    "INITIAL_CACHES",
    "RESIDENCIES",
    "SIZE",
    "Decorated",
    "bundle_argument",
    "common_engine_options",
    "device_option",
    "devices_options",
    "echo_json",
    "engine_options",
    "engine_request",
    "examples",
    "initial_cache_option",
    "initial_cache_settings",
    "json_option",
    "packed_dir_option",
    "uncached_engine_options",
]

Decorated = TypeVar("Decorated", bound=Callable[..., Any])

RESIDENCIES = ("slots", "programs", "resident")

INITIAL_CACHES = ("auto", "warm", "cold", "prompt")
"""Values of ``--initial-cache`` that name no file."""

# Whether the folder exists is the bundle reader's to say: its errors name the remedy.
BUNDLE = click.Path(path_type=pathlib.Path)

bundle_argument = click.argument("bundle", type=BUNDLE)

json_option = click.option(
    "--json", "as_json", is_flag=True, help="Print one JSON object, errors included."
)

device_option = click.option(
    "-s",
    "--device",
    "--serial",
    "device",
    metavar="SERIAL",
    help="Run on this phone: adb's serial, HOST:PORT for Wi-Fi, or `any` for the one connected or "
    "named by ANDROID_SERIAL.  [default: this machine]",
)


def devices_options(function: Decorated) -> Decorated:
    """``--device``, which may be given several times, and ``--all``."""
    several = click.option(
        "-s",
        "--device",
        "--serial",
        "devices",
        multiple=True,
        metavar="SERIAL",
        help="A phone: adb's serial, or HOST:PORT for Wi-Fi; several may be given.",
    )
    every = click.option("--all", "every", is_flag=True, help="Every phone that is connected.")
    return several(every(function))


packed_dir_option = click.option(
    "--packed-dir",
    type=click.Path(path_type=pathlib.Path),
    help="Where the packed weights lie.  [default: BUNDLE/.packed/<cpu>]",
)


def examples(*lines: str) -> str:
    """The epilog of a command's help."""
    return "\b\nExamples:\n" + "\n".join(f"  {line}" for line in lines)


def echo_json(value: object) -> None:
    """Print a command's JSON answer."""
    click.echo(json.dumps(value, indent=2))


def initial_cache_option(default: str) -> Callable[[Decorated], Decorated]:
    """``--initial-cache``, whose value :func:`initial_cache_settings` reads."""
    return click.option(
        "--initial-cache",
        default=default,
        metavar="STATE|FILE",
        show_default=True,
        help="What is cached when decoding begins: warm (what was left there), cold (nothing), "
        "prompt (what the prompt leaves), the profile in FILE; auto: warm for exact routing, else "
        "prompt.",
    )


_ROUTING = click.option(
    "--routing",
    default="exact",
    metavar="METHOD",
    show_default=True,
    help="How experts are chosen: exact is the model's own choice; cache-prior:auto and other "
    "methods prefer those in the cache, and change the output (docs/routing/README.md).",
)
_POOL = click.option(
    "--pool",
    type=click.Choice(("auto", "global", "layer")),
    default="auto",
    show_default=True,
    help="One cache for all layers, or one for each; auto: global for exact routing, else layer.",
)
_EVICTION = click.option(
    "--eviction",
    default="lru",
    metavar="POLICY",
    show_default=True,
    help="What leaves the cache: lru, lfu or lfu:DECAY.",
)
_CONTEXT = click.option(
    "-c",
    "--context",
    type=click.IntRange(1),
    help="Positions to keep keys and values for.  [default: what a test of bench needs, else "
    "the model's, at most 4096]",
)
_BELOW_CYCLE = click.option(
    "--allow-below-cycle",
    is_flag=True,
    help="Run even where the cache holds less than one token uses, and so never hits.",
)
_CACHE = click.option(
    "--cache",
    default="50%",
    show_default=True,
    help="Memory for experts: a share of them (50%), a size (512MiB) or auto.",
)
_HOW = (
    click.option(
        "--residency",
        type=click.Choice(RESIDENCIES),
        default="slots",
        show_default=True,
        help="slots: swap weights under live programs; programs: load a program per miss; "
        "resident: everything in memory.",
    ),
    click.option(
        "--lanes",
        type=click.IntRange(1, 16),
        default=2,
        show_default=True,
        help="Reads in flight at once.",
    ),
    click.option(
        "-t",
        "--threads",
        type=click.IntRange(1, 256),
        help="Threads that compute.  [default: the machine's cores]",
    ),
)
_COMMON = (_POOL, _EVICTION, _CONTEXT, packed_dir_option, _BELOW_CYCLE)
_SINGLE = (_CACHE, _ROUTING, initial_cache_option("auto"), *_HOW)


def common_engine_options(function: Decorated) -> Decorated:
    """Settings of :class:`moe_mobile.Engine` that `bench` takes one value of."""
    for option in reversed(_COMMON):
        function = option(function)
    return function


def engine_options(function: Decorated) -> Decorated:
    """All settings of :class:`moe_mobile.Engine`, for a command that runs one configuration."""
    function = common_engine_options(function)
    for option in reversed(_SINGLE):
        function = option(function)
    return function


def uncached_engine_options(function: Decorated) -> Decorated:
    """Those of :func:`engine_options` that say nothing of routing and cache."""
    for option in reversed((_CONTEXT, packed_dir_option, *_HOW)):
        function = option(function)
    return function


def engine_request(options: dict[str, Any], bundle: pathlib.Path) -> dict[str, Any]:
    """The `settings` of the runner's `open` request; what is None is the engine's choice."""
    request = {
        name: str(value) if isinstance(value, pathlib.Path) else value
        for name, value in options.items()
        if value is not None
    }
    return request | initial_cache_settings(options.get("initial_cache", "auto"), bundle)


def initial_cache_settings(text: str, bundle: pathlib.Path) -> dict[str, Any]:
    """Engine settings for the value of ``--initial-cache``.

    Raises what reading a profile and a manifest does, and UsageError for another model's profile.
    """
    if text in INITIAL_CACHES:
        return {"initial_cache": text}
    if not pathlib.Path(text).exists():
        raise UsageError(
            f"{text} is neither a state of the cache nor a file",
            setting="--initial-cache",
            remedy=f"Possible are {', '.join(INITIAL_CACHES)}, or a file that `moe-mobile simulate "
            "--save-profile` wrote",
        )
    from moe_mobile.bundle.reader import read_manifest
    from moe_mobile.routing.profile import read_profile

    profile, manifest = read_profile(text), read_manifest(bundle)
    try:
        profile.of(manifest.model.name, manifest.moe_layers, manifest.moe.num_experts)
    except UsageError as error:
        raise UsageError(error.cause, file=text, remedy=error.remedy) from None
    return {"initial_cache": "profile", "cache_profile": profile.layers}


class _Size(click.ParamType[int]):
    """A number of bytes: 512MiB, 2GiB, 1000000."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        try:
            return parse_size(str(value))
        except ValueError as error:
            self.fail(str(error), param, ctx)


SIZE = _Size()
