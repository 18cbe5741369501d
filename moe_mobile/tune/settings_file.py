# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""Settings that `moe-mobile tune` chose for a bundle, in a file that other commands take.

docs/routing/tune.md describes the file.
"""

from __future__ import annotations

import math
import os
import re
from dataclasses import asdict, dataclass
from typing import Any

from moe_mobile import __version__
from moe_mobile.base.command_line import command_line
from moe_mobile.base.files import read_regular
from moe_mobile.base.json_field import MAX_INTEGER, JsonField
from moe_mobile.base.json_text import json_text
from moe_mobile.base.outputs import write_output
from moe_mobile.base.routings import lossy_causes
from moe_mobile.base.versioned_files import Format
from moe_mobile.errors import UsageError
from moe_mobile.routing.capacity import percent_of

_MARK = "moe_mobile_settings"
_MAX_BYTES = 1 << 20
_MAX_TEXT = 200
_MAX_CHOICES = 64
_MAKES = command_line("tune", "BUNDLE", save_settings="FILE")
_REMEDY = f"Name a file that `{_MAKES}` wrote, or make it again"
_FORMAT = Format(
    mark=_MARK,
    version=1,
    missing=f"holds no settings: the member {_MARK!r} is missing",
    name="the settings have",
    remedy=_REMEDY,
    newer="Make them again, or use the moe-mobile version that wrote them",
)
_ABOVE_0, _ABOVE_MINUS_1 = math.ulp(0.0), math.nextafter(-1, 0)
# Of Measured: the least and the most, and whether null may stand for it.
_NUMBERS = {
    "perplexity": (_ABOVE_0, math.inf),
    "exact_perplexity": (_ABOVE_0, math.inf),
    "perplexity_change": (_ABOVE_MINUS_1, math.inf),
    "change_error": (0, math.inf, True),
    "loads_per_token_layer": (0, math.inf),
    "exact_loads_per_token_layer": (0, math.inf),
    "changed_share": (0, 1),
    "dropped_share": (0, 1),
    "tokens_per_second": (0, math.inf, True),
    "exact_tokens_per_second": (0, math.inf, True),
}
_POOLS = ("layer", "global")
_INITIAL = ("auto", "warm", "cold", "prompt")


@dataclass(frozen=True)
class ChosenSettings:
    """Settings of :class:`moe_mobile.Engine`, under their names.

    Attributes:
        cache: a share of the experts, such as ``50%``.
        routing: as it came out, with ``auto`` and ``J`` settled.
        pool: ``layer`` or ``global``.
        eviction, initial_cache, precision: as the command line writes them.
    """

    cache: str
    routing: str
    pool: str
    eviction: str
    initial_cache: str
    precision: str = "full"


@dataclass(frozen=True)
class Measured:
    """What was measured with these settings before they were chosen.

    Attributes:
        tokens: that were decoded, of the text whose token ids have the hash ``text_sha256``.
        perplexity, exact_perplexity: with these settings, and with exact routing.
        perplexity_change: how much larger: 0.01 is 1 %.
        change_error: half of its 95 % interval; None if the text is too short to tell.
        loads_per_token_layer, exact_loads_per_token_layer: experts read per token and layer; those
            of a lower precision count by their bytes.
        changed_share, dropped_share: slots that exact routing would have filled otherwise, and
            slots that were left empty.
        tokens_per_second, exact_tokens_per_second: None if speed was not measured.
    """

    tokens: int
    text_sha256: str
    perplexity: float
    exact_perplexity: float
    perplexity_change: float
    change_error: float | None
    loads_per_token_layer: float
    exact_loads_per_token_layer: float
    changed_share: float
    dropped_share: float
    tokens_per_second: float | None = None
    exact_tokens_per_second: float | None = None


@dataclass(frozen=True)
class Choice:
    """What was chosen for one size of the cache."""

    settings: ChosenSettings
    measured: Measured

    @property
    def lossy(self) -> bool:
        """Whether it may change what the model computes."""
        return bool(lossy_causes(self.settings.routing, self.settings.precision))


@dataclass(frozen=True)
class SettingsFile:
    """What was chosen for a bundle.

    Attributes:
        model: its name.
        bundle_hash: of the bundle, the one that it is for.
        limit: of quality, as it was given.
        choices: one or more, each for a cache of another size. The first is the one to take if no
            size of the cache is given.
        created_by: the program that wrote it.
    """

    model: str
    bundle_hash: str
    limit: str
    choices: tuple[Choice, ...]
    created_by: str = f"moe-mobile {__version__}"

    def require(self, bundle_hash: str, file: str | os.PathLike[str]) -> None:
        """Raises UsageError unless it is for the bundle with this hash."""
        if bundle_hash != self.bundle_hash:
            raise UsageError(
                f"the settings are for the bundle {self.bundle_hash} ({self.model}), and this one "
                f"is {bundle_hash}",
                file=file,
                remedy="Run `moe-mobile tune` for this bundle",
            )

    def pick(self, cache: str | None) -> Choice:
        """The choice for a cache of this size, or else of the largest below it, which mostly costs
        less there; None: the first. Raises UsageError if there is none."""
        if cache is None:
            return self.choices[0]
        wanted = percent_of(cache)
        sizes = [(_percent(one.settings.cache), one) for one in self.choices]
        fitting = [one for one in sizes if wanted is not None and one[0] <= _rounded(wanted)]
        if not fitting:
            listed = ", ".join(choice.settings.cache for choice in self.choices)
            cause = "is not a share of the experts" if wanted is None else "is smaller than that"
            raise UsageError(
                f"the settings are for caches of {listed}, and {cache} {cause}",
                remedy="Choose one of them with `cache`, or run `moe-mobile tune` for this one",
            )
        return max(fitting, key=lambda one: one[0])[1]


def write_settings(path: str | os.PathLike[str], settings: SettingsFile) -> int:
    """Write settings: a file whole or not at all, or into a pipe. Returns the bytes.

    Raises:
        UsageError: a value would not be read again.
        DiskFullError, ReadOnlyError, IoError: writing failed.
    """
    try:
        data = _dump(settings)
    except ValueError:
        raise UsageError(
            "a measured number is too large for a float, so these settings are not written",
            file=path,
            remedy="Score the model with `moe-mobile quality` first: its perplexity is too large",
        ) from None
    _FORMAT.parse(data, os.fspath(path), _settings)  # nothing is written that would not be read
    return write_output(path, data)


def read_settings(path: str | os.PathLike[str]) -> SettingsFile:
    """Read settings. The file may come from anywhere: everything in it is checked.

    Raises:
        UsageError: it holds no settings, damaged ones, or some that the engine does not know.
        UnsupportedError: a newer version of moe-mobile wrote it.
        IoError: it cannot be read.
    """
    file = os.fspath(path)
    data = read_regular(file, _MAX_BYTES, _REMEDY)
    if len(data) > _MAX_BYTES:
        raise UsageError("is larger than 1 MiB", file=file, remedy=_REMEDY)
    return _FORMAT.parse(data, file, _settings)


def _dump(settings: SettingsFile) -> bytes:
    choices = [
        {
            "settings": asdict(choice.settings),
            "lossy": choice.lossy,
            "measured": asdict(choice.measured),
        }
        for choice in settings.choices
    ]
    members: dict[str, Any] = {
        _MARK: _FORMAT.version,
        "created_by": settings.created_by,
        "model": settings.model,
        "bundle_hash": settings.bundle_hash,
        "limit": settings.limit,
        "choices": choices,
    }
    return (json_text(members, ascii=False, indent=2) + "\n").encode("utf-8", "replace")


def _settings(root: JsonField) -> SettingsFile:
    root.expect_members((_MARK, "created_by", "model", "bundle_hash", "limit", "choices"))
    choices = root["choices"].items()
    if not 0 < len(choices) <= _MAX_CHOICES:
        root["choices"].fail(f"has {len(choices)} entries, not 1 to {_MAX_CHOICES}")
    made = tuple(map(_choice, choices))
    if len({_percent(choice.settings.cache) for choice in made}) < len(made):
        root["choices"].fail("has two for one size of the cache")
    return SettingsFile(
        created_by=root["created_by"].text(_MAX_TEXT),
        model=root["model"].text(_MAX_TEXT),
        bundle_hash=_hash(root["bundle_hash"]),
        limit=root["limit"].text(_MAX_TEXT),
        choices=made,
    )


def _choice(field: JsonField) -> Choice:
    field.expect_members(("settings", "lossy", "measured"))
    settings = field["settings"]
    settings.expect_members(
        ("cache", "routing", "pool", "eviction", "initial_cache"), ("precision",)
    )
    chosen = ChosenSettings(
        cache=settings["cache"].text(_MAX_TEXT),
        routing=settings["routing"].text(_MAX_TEXT),
        pool=settings["pool"].one_of(_POOLS),
        eviction=settings["eviction"].text(_MAX_TEXT),
        initial_cache=settings["initial_cache"].one_of(_INITIAL),
        precision=settings["precision"].text(_MAX_TEXT) if settings.has("precision") else "full",
    )
    if percent_of(chosen.cache) is None:
        settings["cache"].fail("is not a share of the experts such as '50%'")
    _check_engine_takes(chosen, settings)
    choice = Choice(chosen, _measured(field["measured"]))
    if field["lossy"].boolean() != choice.lossy:
        field["lossy"].fail(
            f"is {str(not choice.lossy).lower()}, but routing {chosen.routing!r} in precision "
            f"{chosen.precision!r} {'changes' if choice.lossy else 'does not change'} the output"
        )
    return choice


def _percent(cache: str) -> float:
    """What a choice's cache holds of each layer's experts."""
    percent = percent_of(cache)
    assert percent is not None  # _choice() refuses anything else
    return _rounded(percent)


def _rounded(percent: float) -> float:
    """Shares are written with a dozen digits; two that differ less are the same."""
    return round(percent, 9)


def _check_engine_takes(chosen: ChosenSettings, field: JsonField) -> None:
    from moe_mobile import _native

    try:
        _native.check_settings(json_text(asdict(chosen)))
    except UsageError as error:
        field.fail(f"would not be taken by the engine: {error.cause}")


def _measured(field: JsonField) -> Measured:
    field.expect_members(tuple(Measured.__dataclass_fields__))
    return Measured(
        tokens=field["tokens"].integer(1, MAX_INTEGER),
        text_sha256=_hash(field["text_sha256"]),
        **{name: _number(field[name], *limits) for name, limits in _NUMBERS.items()},  # type: ignore[arg-type]
    )


def _number(field: JsonField, least: float, most: float, optional: bool = False) -> float | None:
    if optional and field.value is None:
        return None
    value = field.number()
    if not least <= value <= most:
        field.fail(f"is {value}, not in {least} to {most}")
    return value


def _hash(field: JsonField) -> str:
    text = field.text(64)
    if re.fullmatch("[0-9a-f]{64}", text) is None:
        field.fail("is not a SHA-256 in 64 lower-case hexadecimal digits")
    return text
