# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""One row of results: llama-bench's members under their names, and ours.

:class:`Row` is the one place that defines them; `docs/results-schema.md` describes every member,
`results.schema.json` in this folder is the same for programs.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from moe_mobile.base.json_field import Json
from moe_mobile.base.statistics import LARGEST

SCHEMA_VERSION = 2
"""Grows if a member changes its meaning or goes; new members alone do not change it."""

_PHASES = {"prefill": ("n_prompt", "prompt_ts"), "decode": ("n_gen", "gen_ts")}


PARTS = {
    "dense": "dense layers",
    "attention": "attention",
    "expert": "experts",
    "router": "router",
    "head": "output head",
    "rest": "everything else",
    "wait": "waiting for flash",
}
"""Parts of a token's time, in the order of a stack. `rest` is what the others leave of it."""


def finite(value: Any) -> float | None:
    """A number, or None for anything else: true and false, texts, numbers that are too large."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if abs(value) <= LARGEST else None  # false for NaN


def pick(value: Any, *path: str) -> Any:
    """The member at `path`, or None if something on the way is missing."""
    for name in path:
        value = value.get(name) if isinstance(value, dict) else None
    return value


def objects(value: Any) -> list[Json]:
    """The objects in a list; empty if it is not a list."""
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def parts_of(tokens: Sequence[Json]) -> dict[str, float]:
    """Milliseconds of each of :data:`PARTS` over tokens' entries together."""

    def total(name: str) -> float:
        # Files from elsewhere may hold negative times.
        return sum(max(finite(token.get(f"{name}_ns")) or 0.0, 0.0) for token in tokens) / 1e6

    parts = {name: 0.0 if name == "rest" else total(name) for name in PARTS}
    return parts | {"rest": max(total("total") - sum(parts.values()), 0.0)}


@dataclasses.dataclass(frozen=True)
class BenchTest:
    """What one row measures: a prompt of `n_prompt` random tokens, then `n_gen` decoded ones.

    The decoded tokens are random too, as llama-bench has them: what the model prefers must not
    decide how fast it seems.
    """

    n_prompt: int
    n_gen: int

    @property
    def positions(self) -> int:
        """Positions of the context that it fills."""
        return self.n_prompt + self.n_gen

    @property
    def name(self) -> str:
        """llama-bench's name of the test: `pp512`, `tg128` or `pp512+tg128`."""
        parts = [f"pp{self.n_prompt}"] if self.n_prompt else []
        parts += [f"tg{self.n_gen}"] if self.n_gen else []
        return "+".join(parts)


class Row:
    """A row, measured here or read from a file, which another version, machine or person may have
    written.

    A row that was measured has the members below as attributes. A row that was read has those that
    the file has, of whatever type: `get`, `number` and so on take them as they are, and give None
    or nothing for what is missing or of another type.

    Times are in nanoseconds or milliseconds as named, sizes in bytes unless named MiB.

    Args:
        data: the row as JSON, with unknown members too.
        source: the file it was read from.
    """

    # llama-bench's members
    build_commit: str
    build_number: int
    cpu_info: str
    gpu_info: str
    backends: str
    model_filename: str
    model_type: str
    model_size: int
    model_n_params: int
    n_batch: int
    n_ubatch: int
    n_threads: int
    n_prompt: int
    n_gen: int
    n_depth: int
    test_time: str
    avg_ns: int
    stddev_ns: int
    avg_ts: float
    stddev_ts: float
    samples_ns: list[int]
    samples_ts: list[float]
    # ours
    version: str
    executorch_version: str
    bundle_hash: str
    config: Json
    routing: Json
    plan: Json
    direct_io: bool
    fallbacks: list[str]
    load_ms: float
    ttft_ms: float | None
    ttft_stddev_ms: float | None
    prompt_ts: float | None
    gen_ts: float | None
    itl_ns: list[list[int]]
    itl_p50_ms: float | None
    itl_p95_ms: float | None
    itl_p99_ms: float | None
    hit_rate: float | None
    changed_share: float | None
    dropped_share: float | None
    mib_read_per_token: float
    wait_share: float
    rss_anon_bytes: int
    rss_file_bytes: int
    rss_bytes: int
    peak_rss_bytes: int
    swap_bytes: int
    major_faults: int
    # of the device, and how it was measured
    schema_version: int
    run_key: str
    device: Json
    affinity: Json
    regime: Json
    runs: list[Json]
    pss_bytes: int | None
    joules_per_token: float | None
    energy_reliable: bool
    energy_note: str | None
    flags: list[str]
    tokens: list[list[Json]]

    def __init__(self, data: Json, source: str = "") -> None:
        self.data, self.source = data, source
        vars(self).update((name, data[name]) for name in MEMBERS if name in data)

    @classmethod
    def of(cls, **members: Any) -> Row:
        """The row that has these members, which must be all."""
        assert members.keys() == set(MEMBERS)
        return cls({name: members[name] for name in MEMBERS})

    def as_dict(self, *, tokens: bool = False) -> Json:
        """The row as a JSON-ready object; the parts of every token only if asked for."""
        return {name: value for name, value in self.data.items() if tokens or name != "tokens"}

    def get(self, *path: str) -> Any:
        """The member at `path`, whatever it is."""
        return pick(self.data, *path)

    def number(self, *path: str) -> float | None:
        """The number at `path`."""
        return finite(self.get(*path))

    def text(self, *path: str) -> str | None:
        """The text at `path`; None for an empty one too."""
        value = self.get(*path)
        return value if isinstance(value, str) and value else None

    def count(self, *path: str) -> int:
        """The number at `path` as a count, 0 if there is none."""
        return int(self.number(*path) or 0)

    def items(self, *path: str) -> list[Any]:
        """The list at `path`; empty if there is none."""
        value = self.get(*path)
        return value if isinstance(value, list) else []

    @property
    def test(self) -> BenchTest:
        """What this row measured."""
        return BenchTest(self.count("n_prompt"), self.count("n_gen"))

    @property
    def test_name(self) -> str:
        """llama-bench's name of the test: `pp512`, `tg128`, `pp512+tg128 @ d1024`."""
        depth = self.count("n_depth")
        return (self.test.name or "no test") + (f" @ d{depth}" if depth else "")

    @property
    def phases(self) -> list[str]:
        """What was measured: "prefill", "decode" or both."""
        return [phase for phase, (member, _) in _PHASES.items() if self.count(member)]

    def speed(self, phase: str) -> float | None:
        """Tokens per second of a phase, the mean over the repetitions."""
        return self.number(_PHASES[phase][1]) or (
            self.number("avg_ts") if self.phases == [phase] else None
        )

    @property
    def speeds(self) -> list[float]:
        """Tokens per second of every repetition."""
        numbers = map(finite, self.items("samples_ts"))
        return [number for number in numbers if number is not None and number > 0]

    @property
    def latencies(self) -> list[list[float]]:
        """Milliseconds of each decoded token, a list per repetition."""
        return [
            [number / 1e6 for value in one if (number := finite(value)) is not None]
            for one in self.items("itl_ns")
            if isinstance(one, list)
        ]

    @property
    def repetitions(self) -> list[list[Json]]:
        """The entries of every repetition's tokens, empty without `--token-parts`."""
        return [objects(entries) for entries in self.items("tokens")]

    @property
    def records(self) -> list[Json]:
        """What was recorded about each repetition, empty in rows of older versions."""
        return objects(self.get("runs"))


MEMBERS = tuple(Row.__annotations__)
"""Names of all members, in the order in which they are written."""
