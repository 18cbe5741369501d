# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""Scores of texts: what a row says, what is kept of it, and what is refused."""

from __future__ import annotations

import contextlib
import json
import math
import multiprocessing
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.perplexity import heldout_tokens, transformers_quality, windows
from moe_mobile.base.progress import Progress
from moe_mobile.demo import checkpoint_dir
from moe_mobile.errors import BudgetError, MoeMobileError, RuntimeFailedError, UsageError
from moe_mobile.quality.engine import EngineSource
from moe_mobile.quality.file import QualityFile, score_key
from moe_mobile.quality.score import (
    Cache,
    Quality,
    QualitySource,
    ScoredModel,
    Scorer,
    ScoreSequence,
    SequenceScore,
    measure_quality,
)
from moe_mobile.quality.transformers_source import TransformersSource
from moe_mobile.routing.run import RoutingRun
from moe_mobile.runner import Runner
from tests.bundles import DemoMaker

MODEL = ScoredModel(
    name="toy",
    source="transformers",
    source_id="toy",
    identity="",
    vocab_size=1000,
    context=100,
    layers=(0, 2),
    experts=8,
    top_k=2,
)


class ToyScorer(Scorer):
    """Every token after another has -ln 2 + surprise, and misses once."""

    model = MODEL

    def __init__(self, surprise: float = 0.0) -> None:
        self.surprise = surprise
        self.sequences: list[list[int]] = []

    @contextlib.contextmanager
    def _scoring(self, cache: Cache, run: RoutingRun) -> Iterator[ScoreSequence]:
        def score(token_ids: Sequence[int], progress: Progress) -> SequenceScore:
            self.sequences.append(list(token_ids))
            progress("score", len(token_ids), len(token_ids))
            tokens = len(token_ids)
            values = np.full(tokens - 1, -math.log(2) - self.surprise)
            values[::2] += 0.1
            values[1::2] -= 0.1
            return SequenceScore(values, 4 * tokens - tokens, tokens, tokens // 2, 1)

        yield score


def test_a_row_describes_the_scored_text_and_model() -> None:
    scorer = ToyScorer()
    steps: list[tuple[int, ...]] = []
    row = measure_quality(
        scorer,
        range(1, 252),
        Cache("cache-prior:auto", 4),
        progress=lambda *at: steps.append(at[1:3]),
    )
    assert scorer.sequences == [[*range(1, 101)], [*range(101, 201)], [*range(201, 252)]]
    assert steps[-1] == (251, 251)
    assert steps == sorted(steps)
    assert (row.tokens, row.predictions, row.layers) == (251, 248, 2)
    assert (row.routing, row.requested) == ("cache-prior:0.3,J=1", "cache-prior:auto")
    assert (row.lossy, row.note, row.eviction, row.pool, row.capacity) == (
        True,
        "",
        "lru",
        "layer",
        4,
    )
    # 99 predictions make two blocks, 50 one; an odd number of them has one more that is easy.
    assert len(row.blocks) == 5
    assert row.nll == pytest.approx(248 * math.log(2) - 0.2)
    assert row.perplexity == pytest.approx(2, rel=1e-3)
    assert (row.slots, row.hits, row.misses, row.dropped) == (1004, 753, 251, 125)
    assert row.loads == 251 - 125
    assert row.loads_per_token_layer == (251 - 125) / 502
    assert (row.hit_rate, row.changed_share) == (0.75, 3 / 1004)
    assert Quality.from_dict(json.loads(json.dumps(row.as_dict()))) == row


def test_a_last_token_alone_predicts_nothing() -> None:
    scorer = ToyScorer()
    row = measure_quality(scorer, range(101), Cache("exact", 4))
    assert (row.tokens, len(scorer.sequences)) == (100, 1)
    for ids in ([], [5], [5, 1000]):
        with pytest.raises(UsageError) as caught:
            measure_quality(scorer, ids, Cache("exact", 4))
        assert caught.value.setting == "token_ids"


def test_the_error_of_a_change_is_that_of_the_differences() -> None:
    ids, cache = range(1000), Cache("exact", 4)
    exact = measure_quality(ToyScorer(), ids, cache)
    assert (exact.change_from(exact), exact.change_error(exact)) == (0, 0)
    # All tokens alike are harder: that is certain, however much tokens differ.
    harder = measure_quality(ToyScorer(math.log(1.02)), ids, cache)
    assert harder.change_from(exact) == pytest.approx(0.02)
    error = harder.change_error(exact)
    assert error is not None
    assert error < 0.003  # blocks at the end of a sequence are shorter
    # Blocks that differ by noise of a known size.
    noise = np.random.default_rng(1).normal(0, 0.5, 2000)
    rows = [
        Quality(
            "exact", "exact", "", "lru", "layer", 4, 2, 8, 2,
            tokens=128001, predictions=128000, blocks=tuple(blocks),
        )
        for blocks in (np.full(2000, 64.0), 64.0 + noise)
    ]  # fmt: skip
    error = rows[1].change_error(rows[0])
    assert error == pytest.approx(1.96 * 0.5 * math.sqrt(2000) / 128000, rel=0.05)
    few = measure_quality(ToyScorer(), range(300), cache)
    assert few.change_error(few) is None


def test_infinite_perplexities_are_reported() -> None:
    ids = range(1000)
    row = measure_quality(ToyScorer(1e4), ids, Cache("exact", 4))
    assert row.perplexity == math.inf
    assert row.as_dict()["perplexity"] is None
    exact = measure_quality(ToyScorer(), ids, Cache("exact", 4))
    assert row.change_from(exact) == math.inf
    error = row.change_error(exact)
    assert error is not None
    assert not math.isnan(error)
    assert (row.change_from(row), row.change_error(row)) == (0, 0)


@pytest.mark.parametrize(
    ("cache", "kind"),
    [
        (Cache("best:1", 4), UsageError),
        (Cache("cache-prior:-1", 4), UsageError),
        (Cache("exact", 9), UsageError),
        (Cache("exact", 1), BudgetError),
        (Cache("exact", 4, "both"), UsageError),
        (Cache("exact", 4, eviction="belady"), UsageError),
        (Cache("exact", 4, eviction="lfu:2"), UsageError),
        (Cache("exact", 4, precision="low"), UsageError),
        (Cache("exact", 4, precision="half"), UsageError),
    ],
)
def test_invalid_settings_are_refused(cache: Cache, kind: type[MoeMobileError]) -> None:
    scorer = ToyScorer()
    with pytest.raises(kind):
        measure_quality(scorer, range(10), cache)
    assert scorer.sequences == []


def test_scores_are_kept(tmp_path: Path) -> None:
    path, cache = tmp_path / "scores", Cache("max-rank:4", 4)
    row = measure_quality(ToyScorer(), range(50), cache)
    key = score_key(MODEL, [[*range(50)]], cache)
    file = QualityFile(path, resume=False)
    file.append(key, MODEL, row)
    file.close()
    with pytest.raises(UsageError, match="holds results already"):
        QualityFile(path, resume=False)
    with path.open("ab") as raw:
        raw.write(b'{"quality_version": 99, "anything": 1}\n{"quality_ver')
    file = QualityFile(path, resume=True)
    assert file.scores == {key: row}
    file.append("other", MODEL, row)
    file.close()
    assert len(path.read_text().splitlines()) == 3
    (line, *_) = map(json.loads, path.read_text().splitlines())
    assert (line["model"], line["source"], line["perplexity"]) == (
        "toy",
        "transformers",
        row.perplexity,
    )
    for broken in ("{}", "[]", "rows", '{"quality_version": 2, "key": "x"}'):
        path.write_text(broken + "\n")
        with pytest.raises(UsageError, match="line 1 is not a score"):
            QualityFile(path, resume=True)


BROKEN: list[dict[str, Any]] = [
    {"capacity": "x"},
    {"capacity": 1},
    {"experts": 0},
    {"experts": 3},
    {"top_k": True},
    {"blocks": []},
    {"blocks": ["1"]},
    {"blocks": [math.nan]},
    {"blocks": [10**400]},
    {"hits": "many"},
    {"hits": 10**9},
    {"misses": -5},
    {"dropped": 51},
    {"changed": 201},
    {"tokens": 0},
    {"context": 7},
    {"nll": None},
    {"nll": math.nan},
    {"nll": 3},
    {"nll": 10**400},
    {"perplexity": "2"},
    {"lossy": False},
    {"routing": "exact", "lossy": False},
    {"routing": "nonsense"},
    {"requested": "max-rank:x"},
    {"note": "\x1b[2J"},
    {"pool": "both"},
    {"key": []},
    {"expert_precision": "half"},
    {"bytes_read": -1},
    {"note": 0},
    {"note": "\ud800"},
]
MOVED: list[dict[str, Any]] = [
    {"routing": "max-rank:5,J=2"},
    {"requested": "max-rank:5"},
    {"note": "all is well"},
    {"pool": "global"},
    {"expert_precision": "low"},
    {"model": 5},
    {"eviction": "lfu"},
    {"capacity": 5},
    {"experts": 9},
    {"model": "toy\x1b"},
    {"source_id": "other"},
    {"precision": "float16"},
    {"context": 99},
]


@pytest.mark.parametrize("changes", [*BROKEN, *MOVED], ids=str)
def test_a_changed_line_is_refused(changes: dict[str, Any], tmp_path: Path) -> None:
    path, cache, ids = tmp_path / "scores", Cache("max-rank:4", 4), [[*range(50)]]
    key = score_key(MODEL, ids, cache)
    file = QualityFile(path, resume=False)
    file.append(key, MODEL, measure_quality(ToyScorer(), ids[0], cache))
    file.close()
    line = json.loads(path.read_text())
    file = QualityFile(path, resume=True)
    assert file.take(key, MODEL, ids, cache) == file.scores[key]
    assert file.take("other", MODEL, ids, cache) is None
    file.close()
    path.write_text("\n" + json.dumps(line | changes) + "\n")
    with pytest.raises(UsageError, match="line 2 is not a score") as caught:  # noqa: PT012
        file = QualityFile(path, resume=True)
        assert changes in MOVED
        file.take(key, MODEL, ids, cache)
    assert "\x1b" not in str(caught.value)
    assert caught.value.file == str(path)
    assert "delete that line" in str(caught.value.remedy)


def test_a_key_is_of_all_that_decides_a_score() -> None:
    cache, ids = Cache("exact", 4), [[1, 2, 3, 4]]
    keys = {
        score_key(MODEL, ids, cache),
        score_key(MODEL, [[1, 2], [3, 4]], cache),
        score_key(MODEL, [[1, 2, 3, 5]], cache),
        score_key(MODEL, ids, Cache("exact", 5)),
        score_key(MODEL, ids, Cache("exact", 4, "global")),
        score_key(MODEL, ids, Cache("exact", 4, eviction="lfu")),
        score_key(MODEL, ids, Cache("max-rank:3", 4)),
        score_key(MODEL, ids, Cache("exact", 4, precision="low")),
    }
    assert len(keys) == 8
    assert score_key(MODEL, ids, cache) in keys


def test_exact_perplexity_is_that_of_the_whole_model() -> None:
    ids = heldout_tokens(1500)
    expected = transformers_quality(checkpoint_dir(), windows(ids))
    row = measure_quality(TransformersSource("demo"), ids, Cache("exact", 8))
    assert row.predictions == expected.scored
    assert row.perplexity == pytest.approx(expected.perplexity, rel=1e-6)


def test_workers_of_a_pool_score(demo_bundle: DemoMaker) -> None:
    ids, cache = heldout_tokens(80), Cache("cache-prior:0.2", 8)
    sources: list[QualitySource] = [
        TransformersSource("demo"),
        EngineSource(str(demo_bundle()), settings=(("threads", 1),)),
    ]
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        there = [pool.submit(measure_quality, source, ids, cache) for source in sources * 2]
        rows = [future.result() for future in there]
    assert rows[:2] == rows[2:]
    assert rows[:2] == [measure_quality(source, ids, cache) for source in sources]
    assert rows[0] != rows[1]


@pytest.mark.parametrize(
    "answer", [{}, {"log_probabilities": [1.0]}, {"log_probabilities": "x", "stats": None}]
)
def test_an_answer_of_another_shape_is_a_typed_error(
    answer: dict[str, Any], demo_bundle: DemoMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = Runner.request

    def request(self: Runner, command: str, **members: Any) -> dict[str, Any]:
        given = asked(self, command, **members)
        return {"stats": given["stats"], **answer} if command == "score" else given

    monkeypatch.setattr(Runner, "request", request)
    with pytest.raises(RuntimeFailedError, match="log-probabilities of 3 tokens"):
        measure_quality(EngineSource(str(demo_bundle())), [5, 6, 7], Cache("exact", 8))


def test_an_engine_without_a_cache_is_refused(demo_bundle: DemoMaker) -> None:
    source = EngineSource(str(demo_bundle()), settings=(("residency", "resident"),))
    with pytest.raises(UsageError, match="no cache to score with") as refusal:
        source.open()
    assert refusal.value.setting == "residency"
