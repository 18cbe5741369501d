# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""Settings of a run: the cache, the routing, and how experts are read.

All that opens an engine takes them as :class:`EngineSettings`: :class:`moe_mobile.Engine`, `bench`,
`quality`, `tune` and the command line. The C++ engine checks the values, in one place for all.
"""

from __future__ import annotations

import dataclasses
import operator
import os
import reprlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, SupportsFloat, SupportsIndex, TypedDict, TypeVar

from moe_mobile.base.json_text import json_text
from moe_mobile.errors import UsageError

DEFAULT_CONTEXT = 4096
"""Positions of the KV cache unless the setting ``context`` names another number, or the model has
fewer. The engine's."""

MOST_NUMBER, MOST_SEED = 2**32 - 1, 2**64 - 1
"""The largest whole numbers that the engine takes: of all that is counted, and as a seed."""

Group = TypeVar("Group", "CacheSettings", "RoutingSettings", "ReadingSettings")


@dataclass(frozen=True)
class CacheSettings:
    """Which experts stay in memory.

    Attributes:
        size: memory for experts: a share of all experts (``"50%"``), a size (``"512MiB"``), or
            ``"auto"`` for what the system has left.
        pool: ``"global"`` (one cache for all layers), ``"layer"`` (one for each, of equal sizes),
            or ``"auto"``: global with exact routing, else layer.
        eviction: what leaves a full cache: ``"lru"``, ``"lfu"`` or ``"lfu:DECAY"``.
        initial: what is cached when decoding begins: ``"warm"`` (what earlier calls left),
            ``"cold"`` (nothing), ``"prompt"`` (what the prompt leaves of an empty cache),
            ``"profile"`` (the experts of ``profile``), or ``"auto"``: warm with exact routing,
            whose output does not depend on it, else prompt, so that equal calls give equal tokens.
        profile: for each layer number its experts, the best first. Needs ``initial="profile"``.
        allow_below_cycle: accept a cache smaller than one token cycle (layers x top-k experts),
            which never hits when the pool is global.
    """

    size: str = "50%"
    pool: str = "auto"
    eviction: str = "lru"
    initial: str = "auto"
    profile: Mapping[int, Sequence[int]] | None = None
    allow_below_cycle: bool = False


@dataclass(frozen=True)
class RoutingSettings:
    """How experts are chosen, and in which precision they run.

    Attributes:
        method: ``"exact"`` (the model's own choice), or a method that prefers experts in the
            cache and changes the output, such as ``"cache-prior:auto"``. docs/routing/README.md
            describes them all.
        precision: for a bundle with several precisions of its experts: ``"full"`` (all experts of
            a token in the bundle's first), ``"low"`` (all in its second), or ``"ranks:N"`` (the N
            best in the first, the others in the second). All but full change the output.
    """

    method: str = "exact"
    precision: str = "full"


@dataclass(frozen=True)
class ReadingSettings:
    """How experts come from flash into memory. None of it changes the output.

    Attributes:
        residency: ``"slots"`` (weights are read into live programs), ``"programs"`` (a program is
            loaded for each miss) or ``"resident"`` (all experts in memory; the cache's size is not
            used).
        lanes: threads that read, 1 to 16.
        packed_dir: folder of the packed weights; None: a folder inside the bundle.
        scratch_dir: folder for short-lived files, used when ``packed_dir`` is not writable; None:
            the system's folder for temporary files.
        overlap: run the experts in the cache while the others are read. Off for measurements.
        direct: read with O_DIRECT if the file system has it. Off for measurements.
    """

    residency: str = "slots"
    lanes: int = 2
    packed_dir: str | os.PathLike[str] | None = None
    scratch_dir: str | os.PathLike[str] | None = None
    overlap: bool = True
    direct: bool = True


class SettingKeywords(TypedDict, total=False):
    """Members of the three classes as plain keywords, under the names of the engine's JSON."""

    precision: str
    pool: str
    eviction: str
    initial_cache: str
    cache_profile: Mapping[int, Sequence[int]] | None
    allow_below_cycle: bool
    residency: str
    lanes: int
    packed_dir: str | os.PathLike[str] | None
    scratch_dir: str | os.PathLike[str] | None
    overlap: bool
    direct: bool


_GROUPS: dict[str, type[Any]] = {
    "cache": CacheSettings,
    "routing": RoutingSettings,
    "reading": ReadingSettings,
}
# The engine's JSON is flat: group and member of each of its names.
_NAMES = {
    "size": "cache",
    "initial": "initial_cache",
    "profile": "cache_profile",
    "method": "routing",
}
_PLACES = {
    _NAMES.get(member.name, member.name): (group, member.name)
    for group, kind in _GROUPS.items()
    for member in dataclasses.fields(kind)
}
_TEXTS = {
    "cache": '"512MiB", "25%" or "auto"',
    "routing": '"exact" or "cache-prior:auto"',
    "reading": '"slots" or "resident"',
}


@dataclass(frozen=True)
class EngineSettings:
    """Everything an engine is opened with, apart from the bundle.

    Attributes:
        cache, routing, reading: the three groups.
        threads: threads that compute; None: one per core.
        context: positions of the KV cache; None: the model's, at most 4096.

    Raises UsageError for a group of another type.
    """

    cache: CacheSettings = field(default_factory=CacheSettings)
    routing: RoutingSettings = field(default_factory=RoutingSettings)
    reading: ReadingSettings = field(default_factory=ReadingSettings)
    threads: int | None = None
    context: int | None = None

    def __post_init__(self) -> None:
        for name, kind in _GROUPS.items():
            value = getattr(self, name)
            if not isinstance(value, kind):
                remedy = f"Give a text such as {_TEXTS[name]}, or a {kind.__name__}."
                raise UsageError(f"invalid {name} {value!r}", setting=name, remedy=remedy)

    @classmethod
    def of(
        cls,
        cache: str | CacheSettings | None = None,
        routing: str | RoutingSettings | None = None,
        reading: str | ReadingSettings | None = None,
        threads: int | None = None,
        context: int | None = None,
    ) -> EngineSettings:
        """Settings of which a text stands for the first member of a group, None for the defaults.

        Raises UsageError for a group of another type.
        """
        return cls(
            _group(CacheSettings, cache),
            _group(RoutingSettings, routing),
            _group(ReadingSettings, reading),
            threads,
            context,
        )

    def with_values(self, values: Mapping[str, Any]) -> EngineSettings:
        """A copy with other values, given under the names of the engine's JSON (docs/runner.md).

        Raises TypeError for a name that does not exist.
        """
        changed: dict[str, dict[str, Any]] = {group: {} for group in _GROUPS}
        own: dict[str, Any] = {}
        for name, value in values.items():
            if name in ("threads", "context"):
                own[name] = value
            elif name in _PLACES:
                group, member = _PLACES[name]
                changed[group][member] = value
            else:
                raise TypeError(f"unknown setting {name!r}")
        groups = {
            group: dataclasses.replace(getattr(self, group), **members)
            for group, members in changed.items()
        }
        return dataclasses.replace(self, **groups, **own)

    @classmethod
    def from_request(cls, values: Mapping[str, Any]) -> EngineSettings:
        """The settings in an answer of the engine; names that are new here are ignored."""
        known = {*_PLACES, "threads", "context"}
        taken = {name: value for name, value in values.items() if name in known}
        if taken.get("cache_profile"):  # JSON's keys are texts
            layers = taken["cache_profile"].items()
            taken["cache_profile"] = {int(layer): tuple(experts) for layer, experts in layers}
        return cls().with_values(taken)

    def as_request(self) -> dict[str, Any]:
        """The ``settings`` of the runner's ``open`` request (docs/runner.md).

        Members that are None are left out: they are the engine's choice. Raises UsageError for a
        path that is not UTF-8, for 0 threads or positions, and for a profile of another type.
        """
        values = {
            name: getattr(getattr(self, group), member) for name, (group, member) in _PLACES.items()
        }
        for name in ("threads", "context"):
            # For the engine, 0 means its own choice; here that is None.
            number = getattr(self, name)
            values[name] = None if number is None else whole(name, number, least=1)
        for name in ("packed_dir", "scratch_dir"):
            if values[name] is not None:
                values[name] = utf8(name, values[name])
        if self.cache.profile is not None:
            values["cache_profile"] = _profile(self.cache.profile)
        return {name: value for name, value in values.items() if value is not None}

    def check(self) -> None:
        """Raises the UsageError that opening an engine with these settings would."""
        from moe_mobile import _native

        _native.check_settings(to_json(self.as_request()))


def _group(kind: type[Group], value: str | Group | None) -> Group:
    if value is None:
        return kind()
    return kind(value) if isinstance(value, str) else value


def _profile(profile: Mapping[int, Sequence[int]]) -> dict[str, list[int]]:
    """As JSON, whose keys are texts. Raises UsageError for another type."""
    try:
        return {str(layer): list(experts) for layer, experts in profile.items()}
    except (AttributeError, TypeError):
        raise UsageError(
            f"a profile of type {type(profile).__name__} does not list experts by layer",
            setting="cache_profile",
            remedy="Give a mapping such as {0: [3, 1]}: for each layer its experts",
        ) from None


def to_json(settings: Mapping[str, Any]) -> str:
    """Settings as the C++ engine takes them; numbers may be numpy's. The engine checks the values.

    Raises UsageError for what JSON cannot hold, texts that are not Unicode included.
    """
    for name, value in settings.items():
        try:
            json_text(value, default=_number, ascii=False).encode()
        except (TypeError, ValueError, RecursionError):
            raise UsageError(
                f"invalid value {reprlib.repr(value)}",
                setting=name,
                remedy="Correct it, or leave it out",
            ) from None
    return json_text(settings, default=_number)


def utf8(setting: str, path: str | os.PathLike[str]) -> str:
    """A path as text. Raises UsageError if it is not UTF-8, which JSON and the engine need."""
    if not isinstance(path, str | os.PathLike):
        raise UsageError(
            f"{path!r} is not a path", setting=setting, remedy="Give a text or a pathlib.Path."
        )
    text = os.fspath(path)
    try:
        text.encode()
    except UnicodeEncodeError:
        raise UsageError(
            f"the path {text!r} is not UTF-8",
            setting=setting,
            remedy="Rename it, or give a link that has another name.",
        ) from None
    return text


def index(value: Any) -> int:
    """A whole number, numpy's included. Raises TypeError, also for True and False."""
    if isinstance(value, bool):
        raise TypeError(f"{value!r} is not a number")
    return operator.index(value)


def whole(setting: str, value: Any, least: int = 0) -> int:
    """A whole number of 32 bits (64 for ``seed``), numpy's included. Raises UsageError."""
    try:
        number = index(value)
    except TypeError:
        number = -1
    most = MOST_SEED if setting == "seed" else MOST_NUMBER
    if not least <= number <= most:
        raise UsageError(
            f"{value!r} is not a whole number from {least} to {most}",
            setting=setting,
            remedy="Correct it, or leave it out for the default.",
        )
    return number


def _number(value: Any) -> int | float:
    if isinstance(value, SupportsIndex):
        return operator.index(value)
    if isinstance(value, SupportsFloat):
        return float(value)
    raise TypeError
