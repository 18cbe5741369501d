# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""Which experts a text uses most, in a file: what a cache may begin with."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from moe_mobile.base.command_line import command_line
from moe_mobile.base.files import read_regular
from moe_mobile.base.json_field import MAX_MANIFEST_BYTES, JsonField
from moe_mobile.base.json_text import json_text
from moe_mobile.base.outputs import write_output
from moe_mobile.base.versioned_files import Format
from moe_mobile.errors import UsageError
from moe_mobile.routing.simulation import simulate
from moe_mobile.routing.trace import MAX_EXPERTS, MAX_LAYERS, MAX_TEXT, Trace

_MARK = "moe_mobile_cache_profile"
_REMEDY = (
    f"Name a file that `{command_line('simulate', 'TRACE', save_profile='FILE')}` wrote, or record "
    "it again"
)
_FORMAT = Format(
    mark=_MARK,
    version=1,
    missing=f"is not a cache profile: the member {_MARK!r} is missing",
    name="the profile has",
    remedy=_REMEDY,
    newer="Record it again, or use the moe-mobile version that wrote it",
)


@dataclass(frozen=True)
class CacheProfile:
    """The experts of each layer in order of use.

    Attributes:
        model: its name.
        experts: of each layer.
        layers: by the model's number of the layer, ascending: distinct experts, the most used
            first. A cache with room for more also begins with these.

    Raises UsageError if these contradict each other.
    """

    model: str
    experts: int
    layers: Mapping[int, Sequence[int]]

    def __post_init__(self) -> None:
        _require(0 < self.experts <= MAX_EXPERTS, f"{self.experts} experts are too few or too many")
        numbers = list(self.layers)
        _require(
            numbers == sorted(numbers) and all(0 <= n < MAX_LAYERS for n in numbers),
            "the layers are not ascending numbers",
        )
        _require(bool(numbers), "there are no layers")
        for number, experts in self.layers.items():
            known = all(0 <= expert < self.experts for expert in experts)
            _require(known, f"layer {number} names an expert that is not there")
            _require(len(set(experts)) == len(experts), f"layer {number} names an expert twice")
            _require(bool(experts), f"layer {number} names no expert")

    def of(self, model: str, layers: Sequence[int], experts: int) -> list[Sequence[int]]:
        """As :func:`simulate` takes it. Raises UsageError if it is not of that model.

        Other models of the same shape use other experts: the name counts too.
        """
        if model != self.model:
            raise UsageError(
                f"the profile is of {self.model}, and the model is {model}",
                setting="initial_cache",
                remedy="Record one of this model; if only its name has changed, correct the "
                "member 'model' of the profile",
            )
        if tuple(layers) != tuple(self.layers) or experts != self.experts:
            raise UsageError(
                f"the profile is of {self.model}, with {self.experts} experts in each of the "
                f"layers {_ranges(list(self.layers))}",
                setting="initial_cache",
                remedy=f"Record one of this model, with {experts} in each of {_ranges(layers)}",
            )
        return list(self.layers.values())


def _ranges(numbers: Sequence[int]) -> str:
    """As in "1-3, 7"."""
    ends = [n for n, after in zip(numbers, [*numbers[1:], None], strict=True) if after != n + 1]
    begins = [n for n, before in zip(numbers, [None, *numbers], strict=False) if before != n - 1]
    pairs = zip(begins, ends, strict=True)
    return ", ".join(str(a) if a == b else f"{a}-{b}" for a, b in pairs)


def count_uses(traces: Sequence[Callable[[], Trace]]) -> CacheProfile:
    """The profile of exact routing over all tokens of the traces, which are of one model.

    All experts are named, unused ones at the end; equals in the order of their numbers. The traces
    are made one after another, so that one at a time is in memory.
    """
    uses: np.ndarray[tuple[int, int], np.dtype[np.int64]] | None = None
    for make in traces:
        trace = make()
        _, layers, experts = trace.router_logits.shape
        if uses is None:
            uses = np.zeros((layers, experts), np.int64)
        for span in trace.spans():
            logits = trace.router_logits[span]
            chosen = simulate(logits, trace.top_k, experts, "exact", router=trace.router).selected
            for layer in range(layers):
                uses[layer] += np.bincount(chosen[:, layer].ravel(), minlength=experts)
    if uses is None:
        raise UsageError("there are no traces", setting="TRACE", remedy="Name at least one")
    order = np.argsort(-uses, axis=1, kind="stable").tolist()
    named = {number: tuple(of) for number, of in zip(trace.layers, order, strict=True)}
    return CacheProfile(trace.model, experts, named)


def write_profile(path: str | os.PathLike[str], profile: CacheProfile) -> int:
    """Write a profile: a file whole or not at all, or into a pipe. Returns its bytes.

    Raises:
        UsageError: the model's name is too long or not printable.
        DiskFullError, ReadOnlyError, IoError: writing failed.
    """
    layers = {str(number): [int(e) for e in of] for number, of in profile.layers.items()}
    members = {_MARK: _FORMAT.version, "model": profile.model, "experts": profile.experts}
    data = (json_text({**members, "layers": layers}, ascii=False) + "\n").encode()
    _FORMAT.parse(data, os.fspath(path), _profile)  # nothing is written that would not be read
    return write_output(path, data)


def read_profile(path: str | os.PathLike[str]) -> CacheProfile:
    """Read a profile. The file may come from anywhere: everything in it is checked.

    Raises:
        UsageError: it is not a profile, or damaged.
        UnsupportedError: a newer version of moe-mobile wrote it.
        IoError: it cannot be read.
    """
    file = os.fspath(path)
    data = read_regular(file, MAX_MANIFEST_BYTES, _REMEDY)
    return _FORMAT.parse(data, file, _profile)


def _profile(root: JsonField) -> CacheProfile:
    root.expect_members((_MARK, "model", "experts", "layers"))
    model, experts = root["model"].text(MAX_TEXT), root["experts"].integer(1, MAX_EXPERTS)
    layers = root["layers"]
    layers.expect_object()
    named = {}
    for name in layers.value:
        if re.fullmatch("0|[1-9][0-9]{0,4}", name) is None:
            layers.fail(f"has the member {name[:20]!r}, which is not the number of a layer")
        items = layers[name].items()
        named[int(name)] = tuple(item.integer(0, experts - 1) for item in items)
    return CacheProfile(model, experts, dict(sorted(named.items())))


def _require(condition: bool, cause: str) -> None:
    if not condition:
        raise UsageError(cause, remedy="Correct it")
