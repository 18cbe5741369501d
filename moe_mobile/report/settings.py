# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""Which rows are of one configuration, what to call it, and which colour it has everywhere."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from moe_mobile.base.routings import is_lossy
from moe_mobile.bench.row import Row

COLOURS = 8
"""Colours that people can distinguish, also people who see fewer colours."""

NOT_RECORDED = "not recorded"

ALL = "all"
"""The cache of a row whose experts are all in memory."""

# In the order in which people name them. Other members of a row's `config` come last.
_CONFIG = ("residency", "cache", "lanes", "threads", "routing")
# Where things lie, and what `context` below says better.
_IGNORED = {*_CONFIG, "context", "packed_dir", "scratch_dir"}
# They are clear without their names.
_SPEAKING = {"device", "model", "residency"}


@dataclasses.dataclass(frozen=True, eq=False)
class Configuration:
    """Rows that differ in their test or time alone. `colour` counts from 0 to COLOURS - 1."""

    label: str
    colour: int
    settings: dict[str, str]
    rows: list[Row]


def configurations(rows: Sequence[Row]) -> tuple[list[Configuration], str | None]:
    """The configurations in the order of their first rows.

    The second value is the setting that decides the colour, if there are more configurations
    than colours; None if each has its own.
    """
    groups: dict[tuple[tuple[str, str], ...], list[Row]] = {}
    for row in rows:
        groups.setdefault(tuple(settings(row).items()), []).append(row)
    found = [dict(key) for key in groups]
    several = varying(found)
    labels = _unique([label(values, several) for values in found])
    by = None
    if len(found) > COLOURS:
        few = [name for name in several if len({v.get(name) for v in found}) <= COLOURS]
        by = few[0] if few else None
    keys = [values.get(by) if by else str(index) for index, values in enumerate(found)]
    order = list(dict.fromkeys(keys))
    return [
        Configuration(name, order.index(key) % COLOURS, values, members)
        for name, key, values, members in zip(labels, keys, found, groups.values(), strict=True)
    ], by


def settings(row: Row) -> dict[str, str]:
    """What a user chooses for a row, its test left out, as text for people."""
    values = {"device": _device_key(row), "model": _model(row), "build": _build(row)}
    for name in _CONFIG:
        values[name] = _text(row.get("config", name))
    if values["residency"] == "resident":
        values["cache"] = ALL  # whatever was asked for
    affinity = row.get("affinity")
    if isinstance(affinity, dict):
        cpus = affinity.get("cpus")
        listed = f" ({','.join(map(_text, cpus))})" if isinstance(cpus, list) and cpus else ""
        values["affinity"] = _text(affinity.get("policy")) + listed
    context = row.number("config", "context")
    needed = row.count("n_prompt") + row.count("n_gen")
    values["context"] = "as needed" if context in (None, needed) else f"{context:.0f}"
    config = row.get("config")
    for name in sorted(config) if isinstance(config, dict) else []:
        if name not in _IGNORED:
            values[name] = _text(config[name])
    if row.get("routing", "lossy") is True:
        by_routing = is_lossy(values["routing"]) or "precision" not in values
        values["routing" if by_routing else "precision"] += " (lossy)"
    return values


def device_name(row: Row) -> str:
    """The device's model; the processor in rows that name no device."""
    name = row.text("device", "model") or row.text("cpu_info") or "unknown device"
    return f"{name} (virtual)" if row.get("device", "virtual") is True else name


def _device_key(row: Row) -> str:
    serial = row.text("device", "serial")
    return device_name(row) + (f" [{serial}]" if serial and serial != "local" else "")


def _model(row: Row) -> str:
    name = row.text("model_type") or "unknown model"
    digest = row.text("bundle_hash")
    return f"{name} [{digest[:8]}]" if digest else name


def _build(row: Row) -> str:
    engine = f"moe-mobile {row.text('version') or '?'} ({row.text('build_commit') or '?'})"
    return f"{engine}, ExecuTorch {row.text('executorch_version') or '?'}"


def _text(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return NOT_RECORDED if value is None else str(value)


def varying(found: Sequence[dict[str, str]]) -> list[str]:
    """Names of the settings in which some differ."""
    names = dict.fromkeys(name for values in found for name in values)
    return [name for name in names if len({values.get(name) for values in found}) > 1]


def label(values: dict[str, str], names: Sequence[str]) -> str:
    """The settings called `names` for people; the model if there are none."""
    parts = []
    for name in names:
        value = values.get(name, NOT_RECORDED)
        if name == "cache" and values.get("residency") == "resident":
            continue  # the residency says it
        speaks = name in _SPEAKING and value != NOT_RECORDED
        parts.append(value if speaks else f"{name.replace('_', ' ')} {value}")
    return " · ".join(parts) or values["model"].split(" [")[0]


def _unique(labels: Sequence[str]) -> list[str]:
    seen: dict[str, int] = {}
    unique = []
    for label in labels:
        seen[label] = seen.get(label, 0) + 1
        unique.append(label if seen[label] == 1 else f"{label} #{seen[label]}")
    return unique
