# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""What may come as an answer, member by member."""

from __future__ import annotations

import copy
import json
import pathlib
import sys
from typing import Any

import pytest

from moe_mobile import errors
from moe_mobile.results import Residency
from moe_mobile.runner import Runner
from moe_mobile.runner.answers import is_answer

Json = dict[str, Any]

PLAN = {"text": "4 slots", "slots": 4, "num_experts": 8, "total_bytes": 9}
INFO: Json = {
    "pid": 1, "bundle_hash": "ab", "plan": PLAN, "direct_io": True, "fallbacks": [],
    "settings": {
        "cache": "50%", "residency": "slots", "precision": "full", "lanes": 2, "threads": 2,
        "context": 64,
    },
    "moe_mobile": "1", "executorch": "1",
    "routing": {"requested": "exact", "resolved": "exact", "note": "", "lossy": False},
    "load_ms": 1.5,
}  # fmt: skip
PARTS = ("dense_ns", "attention_ns", "expert_ns", "wait_ns", "router_ns", "head_ns")
USES = dict.fromkeys(
    ("total_ns", *PARTS, "hits", "misses", "dropped", "bytes_read",
     "slots_changed_by_routing"), 3,
)  # fmt: skip
PROMPT = {"token": 7, "phase": "prefill", "count": 3, **USES}
TOKEN = {"token": 7, "phase": "decode", "count": 1, **USES}
TOTALS = {"tokens": 4, "hit_rate": 0.5, "p50_ns": 1, "p95_ns": 2, "p99_ns": 3, **USES}
STATS = {"totals": TOTALS, "tokens": [PROMPT, TOKEN]}
MEMORY = dict.fromkeys(("rss_anon", "rss_file", "rss", "peak_rss", "swap", "major_faults"), 1)
SAMPLE: Json = {
    "prompt_ns": 5, "ttft_ns": 6, "gen_ns": 9, "itl_ns": [4, 5], "memory": MEMORY,
    "tokens": [PROMPT, TOKEN, TOKEN],
}  # fmt: skip
MISSES = {
    "raw_read_ns": [5, 6], "slot_miss_ns": [5, 6], "slot_rest_ns": [5, 6],
    "program_read_ns": [5, 6], "program_load_ns": [5, 6], "forward_ns": [5, 6],
}  # fmt: skip
PACKED = {"directory": "d", "blobs": 1, "bytes": 2, "complete": True}

# What is asked, and what may be answered.
ANSWERS: dict[str, tuple[Json, Json]] = {
    "prepare": (
        {},
        {
            "packed_dir": "d",
            "experts": 3,
            "bytes_written": 0,
            "already_prepared": True,
            "shards_deleted": 0,
            "bytes_deleted": 0,
        },
    ),
    "verify": ({}, {"files": 1, "bytes": 2, "packed": PACKED}),
    "digest": ({"paths": ["a"]}, {"files": [{"bytes": 1, "sha256": "ab"}]}),
    "open": ({}, INFO),
    "info": ({}, {name: INFO[name] for name in INFO if name != "load_ms"}),
    "generate": ({}, {"token_ids": [4], "stop": "eos", "position": 9, "stats": STATS}),
    "score": ({"token_ids": [1, 2]}, {"log_probabilities": [-1.5], "stats": STATS}),
    "trace": ({}, {"router_logits": ""}),
    "bench": ({"n_prompt": 3, "n_gen": 2, "repetitions": 1}, {"samples": [SAMPLE]}),
    "measure_misses": ({"count": 2}, MISSES),
    "time_program": ({"iterations": 1}, {"samples_ns": [4], "threads": 2}),
}


def _fits(command: str, answer: Json) -> bool:
    return is_answer(answer, {"command": command, **ANSWERS[command][0]})


def _members(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    inner = value.items() if isinstance(value, dict) else enumerate(value)
    found = []
    for name, member in inner:
        found.append((*path, name))
        if isinstance(member, dict | list):
            found += _members(member, (*path, name))
    return found


@pytest.mark.parametrize("command", ANSWERS)
def test_every_member_is_needed_and_its_type_checked(command: str) -> None:
    answer = ANSWERS[command][1]
    assert _fits(command, answer)
    assert _fits(command, answer | {"of a later version": None})
    for path in _members(answer):
        if "log_probabilities" in path:
            continue  # see below
        where = copy.deepcopy(answer)
        parent: Any = where
        for name in path[:-1]:
            parent = parent[name]
        good = parent[path[-1]]
        if isinstance(parent, dict):
            without = {name: parent[name] for name in parent if name != path[-1]}
            parent.clear()
            parent.update(without)
            assert not _fits(command, where), path
        bad: list[Any] = [None, "10", [None], {"other": 1}, -1, -(10**20), 10**400, float("nan")]
        if isinstance(good, str):
            bad.remove("10")
        if command == "verify" and path == ("packed",):
            bad.remove(None)
        for value in [*bad, *([1] if isinstance(good, bool) else [True])]:
            if type(value) is type(good) and not isinstance(value, int | float | list | dict):
                continue
            parent[path[-1]] = value
            assert not _fits(command, where), (path, value)


@pytest.mark.parametrize("precision", ["", "fp16", "ranks:0", "ranks:x", "ranks:1\n", "\ud800"])
def test_unknown_precisions_are_refused(precision: str) -> None:
    for good in ("full", "low", "ranks:1"):
        assert _fits("open", INFO | {"settings": INFO["settings"] | {"precision": good}})
    assert not _fits("open", INFO | {"settings": INFO["settings"] | {"precision": precision}})


def test_unknown_states_of_experts_are_refused() -> None:
    answer = {"layers": [3], "states": ["012"], "variants": ["001"], "hits": [1], "misses": [2]}
    assert is_answer(answer, {"command": "residency"})
    assert Residency.from_json(answer).states.tolist() == [[0, 1, 2]]
    for states in ("019", "013", "0x2"):
        wrong = answer | {"states": [states]}
        assert not is_answer(wrong, {"command": "residency"})
        with pytest.raises(ValueError, match=r"no state|invalid literal"):
            Residency.from_json(wrong)
    empty: Json = {name: [] for name in answer}
    assert Residency.from_json(empty).states.shape == (0, 0)


@pytest.mark.parametrize(
    "change",
    [
        {"itl_ns": []}, {"itl_ns": [4]}, {"itl_ns": [4, 5, 6]}, {"itl_ns": [0, 9]},
        {"itl_ns": [4, 6]}, {"gen_ns": 0}, {"prompt_ns": 0}, {"ttft_ns": 0}, {"tokens": []},
        {"cache_fill": None}, {"cache_fill": 1.5},
        {"tokens": [PROMPT, TOKEN]}, {"tokens": [TOKEN, TOKEN, TOKEN]},
        {"tokens": [PROMPT | {"count": 2}, TOKEN, TOKEN]},
        {"tokens": [PROMPT, TOKEN, TOKEN | {"count": 2}]},
        *({"tokens": [PROMPT, TOKEN, TOKEN | {part: 4}]} for part in PARTS),
        {"tokens": [PROMPT | {"total_ns": 2}, TOKEN, TOKEN]},
    ],
)  # fmt: skip
def test_a_repetition_has_the_tokens_that_were_asked_for(change: Json) -> None:
    assert not _fits("bench", {"samples": [SAMPLE | change]})


def test_lists_have_as_many_elements_as_were_requested() -> None:
    for command, answer in (
        ("bench", {"samples": []}),
        ("bench", {"samples": [SAMPLE, SAMPLE]}),
        ("digest", {"files": []}),
        ("score", {"log_probabilities": [], "stats": STATS}),
        ("score", {"log_probabilities": [-1, -1], "stats": STATS}),
        ("measure_misses", MISSES | {"raw_read_ns": [5]}),
        ("time_program", {"samples_ns": [], "threads": 1}),
    ):
        assert not _fits(command, answer), answer
    for value, fits in [(None, False), (-2, True), (-1e30, True), (0.0, True), (0.5, False),
                        (True, False), ("-1", False), (-(10**400), False), (10**400, False),
                        (float("nan"), False)]:  # fmt: skip
        assert _fits("score", {"log_probabilities": [value], "stats": STATS}) == fits, value
    assert not _fits("score", {"stats": STATS})
    assert _fits("verify", {"files": 1, "bytes": 2, "packed": None})
    prompt = {**SAMPLE, "gen_ns": 0, "itl_ns": [], "tokens": [PROMPT]}
    asked = {"command": "bench", "n_prompt": 3, "n_gen": 0, "repetitions": 1}
    assert is_answer({"samples": [prompt]}, asked)


def _runner(folder: pathlib.Path, line: str) -> Runner:
    program = folder / "moe_runner"
    program.write_text(f"#!{sys.executable}\nfor line in open(0): print({line!r}, flush=True)\n")
    program.chmod(0o755)
    return Runner(program)


@pytest.mark.parametrize("answer", [{}, {"packed_dir": 3}, {"experts": float("nan")}])
def test_invalid_answers_are_refused(tmp_path: pathlib.Path, answer: Json) -> None:
    good = ANSWERS["prepare"][1]
    event = {"id": 1, "event": "result"}
    with _runner(tmp_path, json.dumps(event | good)) as runner:
        assert runner.request("prepare") == good
    with (
        _runner(tmp_path, json.dumps(event | ({**good, **answer} if answer else {}))) as runner,
        pytest.raises(errors.RuntimeFailedError, match="broke its protocol") as caught,
    ):
        runner.request("prepare")
    assert caught.value.file == str(tmp_path / "moe_runner")


@pytest.mark.parametrize("number", ["NaN", "-Infinity", "1e999"])
def test_answers_have_only_json_numbers(tmp_path: pathlib.Path, number: str) -> None:
    with (
        _runner(tmp_path, f'{{"id": 1, "event": "result", "more": [{number}]}}') as runner,
        pytest.raises(errors.RuntimeFailedError, match="broke its protocol"),
    ):
        runner.request("ask")


def test_texts_of_answers_do_not_act_on_a_terminal(tmp_path: pathlib.Path) -> None:
    evil = "\x1b]0;owned\x07\x9b2J\r\b\u202e\ud800"
    event = {"id": 1, "event": "result", "text": f"a\tb\n{evil}", "of": [{evil: evil}]}
    with _runner(tmp_path, json.dumps(event)) as runner:
        answer = runner.request("ask")
    clean = "\ufffd]0;owned\ufffd\ufffd2J\ufffd\ufffd\ufffd\ufffd"
    assert answer == {"text": f"a\tb\n{clean}", "of": [{clean: clean}]}
