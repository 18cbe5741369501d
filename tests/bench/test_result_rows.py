# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""Rows of the engine against their published schema, and files of rows that are continued."""

from __future__ import annotations

import dataclasses
import json
import math
import pathlib
import re
import sys
from collections.abc import Callable
from typing import Any

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moe_mobile import errors
from moe_mobile.bench.driver import Protocol, bundle_facts
from moe_mobile.bench.gate import Gate
from moe_mobile.bench.measure import measure
from moe_mobile.bench.row import MEMBERS, BenchTest, Row
from moe_mobile.bench.store import ResultFile, TurnFile
from moe_mobile.bench.target import Target, open_target
from moe_mobile.device.local import LocalDevice
from tests.bench.scripted import settings
from tests.bundles import BundleMaker

ROOT = pathlib.Path(__file__).resolve().parents[2]
SCHEMA = json.loads((ROOT / "moe_mobile/bench/results.schema.json").read_text("utf-8"))


@pytest.fixture(scope="module")
def target(bundle: BundleMaker) -> Target:
    return open_target(LocalDevice(), bundle_facts(bundle("qwen3_moe")))


@pytest.fixture(scope="module")
def rows(target: Target) -> list[Row]:
    """A prompt, decoding, and both with other settings in turns: all by the engine."""
    plain = Protocol(repetitions=2)
    found = list(
        measure(
            target,
            [(BenchTest(8, 0), settings()), (BenchTest(0, 4), settings())],
            plain,
        )
    )
    turns = Protocol(repetitions=2, warmup=0, interleave=True, gate=Gate(90, 5))
    varied = [settings(cache="60%"), settings(residency="resident", lanes=1)]
    found += measure(target, [(BenchTest(4, 3), one) for one in varied], turns)
    return found


def test_rows_fit_their_schema(rows: list[Row]) -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    validator = jsonschema.Draft202012Validator(SCHEMA)
    for row in rows:
        for tokens in (True, False):
            validator.validate(json.loads(json.dumps(row.as_dict(tokens=tokens))))
    broken = rows[0].as_dict() | {"runs": [{}]}
    assert not validator.is_valid(broken)


def test_the_schema_lists_the_members_of_rows_in_order(rows: list[Row]) -> None:
    assert list(SCHEMA["properties"]) == list(MEMBERS)
    assert list(SCHEMA["properties"]) == list(rows[0].as_dict(tokens=True))
    run = SCHEMA["properties"]["runs"]["items"]
    written = rows[1].runs[0]
    assert set(run["properties"]) == set(written)
    for name in ("entry", "exit", "memory"):
        assert set(run["properties"][name]["properties"]) == set(written[name])
    assert set(run["properties"]["samples"]["items"]["properties"]) == set(written["samples"][0])
    token = SCHEMA["properties"]["tokens"]["items"]["items"]
    assert set(token["properties"]) == set(rows[1].tokens[0][0])
    assert set(SCHEMA["properties"]["device"]["properties"]) == set(rows[0].device)
    assert set(SCHEMA["properties"]["regime"]["properties"]) == set(rows[0].regime)


def _names(schema: Any) -> set[str]:
    if not isinstance(schema, dict):
        return set()
    nested = [*schema.get("properties", {}).values(), *schema.get("anyOf", []), schema.get("items")]
    return set(schema.get("properties", {})).union(*map(_names, nested))


def test_every_member_is_documented() -> None:
    text = (ROOT / "docs/results-schema.md").read_text("utf-8")
    described = set(re.findall(r"^\| `(\w+)` \|", text, re.MULTILINE))
    # Those of the cores' clusters are described in a sentence.
    assert _names(SCHEMA) == described | {"max_khz", "capacity"}


def test_the_surroundings_of_a_repetition_are_recorded(rows: list[Row]) -> None:
    for row in rows:
        assert len(row.runs) == 2
        for run, total_ns in zip(row.runs, row.samples_ns, strict=True):
            assert run["load_start_ms"] <= run["load_end_ms"] <= run["start_ms"] <= run["end_ms"]
            assert run["end_ms"] - run["start_ms"] >= total_ns // 1_000_000
            assert run["entry"]["mem_available_bytes"] > 0
            assert run["samples"][0]["t_ms"] == 0
            for sample in run["samples"]:
                assert 0 < sample["pss"] <= row.peak_rss_bytes
                assert 0 < sample["rss_anon"] <= row.peak_rss_bytes
        assert row.pss_bytes == max(s["pss"] for run in row.runs for s in run["samples"])
    # In turns: the second round goes back.
    starts = [[run["start_ms"] for run in row.runs] for row in rows[2:]]
    assert starts[0][0] < starts[1][0] < starts[1][1] < starts[0][1]
    loads = {run["load_end_ms"] for row in rows[2:] for run in row.runs}
    assert len(loads) == 4  # a process for each repetition
    assert len({run["load_end_ms"] for run in rows[0].runs}) == 1


def test_keys_tell_rows_apart(target: Target, rows: list[Row]) -> None:
    row = (BenchTest(0, 4), settings())
    plain = Protocol(repetitions=2)
    assert rows[1].run_key == target.key(row, plain)
    others = [
        target.key((BenchTest(0, 5), settings()), plain),
        target.key((BenchTest(0, 4), settings(lanes=1)), plain),
        target.key(row, Protocol(repetitions=3)),
        target.key(row, dataclasses.replace(plain, warmup=0)),
        target.key(row, dataclasses.replace(plain, seed=1)),
        target.key(row, dataclasses.replace(plain, interleave=True)),
        target.key(row, dataclasses.replace(plain, gate=Gate(40, 300))),
    ]
    assert len({rows[1].run_key, *others}) == 8


def test_a_file_gives_back_the_written_rows(rows: list[Row], tmp_path: pathlib.Path) -> None:
    path = tmp_path / "rows.jsonl"
    file = ResultFile(path, resume=False)
    for row in rows[:2]:
        file.append(row)
        assert len(path.read_text().splitlines()) == len(file.rows)  # not later
    file.close()
    with pytest.raises(errors.UsageError, match="holds results already"):
        ResultFile(path, resume=False)
    file = ResultFile(path, resume=True)
    assert [row.data for row in file.rows.values()] == [row.data for row in rows[:2]]
    file.append(rows[2])
    file.close()
    assert [json.loads(line)["n_gen"] for line in path.read_text().splitlines()] == [0, 4, 3]
    jsonschema.validate(json.loads(path.read_text().splitlines()[1]), SCHEMA)


@pytest.fixture(scope="module")
def written(rows: list[Row], tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("written") / "rows.jsonl"
    file = ResultFile(path, resume=False)
    for row in rows:
        file.append(row)
    file.close()
    return path.read_bytes()


@given(data=st.data())
def test_a_file_may_be_torn_anywhere(
    data: st.DataObject,
    rows: list[Row],
    written: bytes,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    cut = data.draw(st.integers(0, len(written)))
    path = tmp_path_factory.mktemp("torn") / "rows.jsonl"
    path.write_bytes(written[:cut])
    file = ResultFile(path, resume=True)
    whole = written[:cut].count(b"\n")
    assert [row.data for row in file.rows.values()] == [row.data for row in rows[:whole]]
    # The missing rows are appended; then the file is complete again.
    for row in rows[whole:]:
        file.append(row)
    file.close()
    assert path.read_bytes() == written


def test_interleaved_rows_continue_within_a_grid(target: Target, tmp_path: pathlib.Path) -> None:
    out, turns = tmp_path / "rows.jsonl", tmp_path / "rows.jsonl.turns"
    protocol = Protocol(repetitions=3, warmup=0, interleave=True)
    grid = [(BenchTest(0, count), settings()) for count in (2, 3)]

    class Interrupted(Exception):
        pass

    def until(stop: int) -> Callable[..., None]:
        def progress(stage: str, done: int, total: int, detail: str = "") -> None:
            assert total == 6 or stage != "bench"
            # Called before the repetition is kept: that one is lost.
            if stage == "bench" and done == stop:
                raise Interrupted

        return progress

    for stop, kept in ((3, 2), (6, 5)):
        file = ResultFile(out, resume=True)
        with pytest.raises(Interrupted):
            list(measure(target, grid, protocol, until(stop), file.turns))
        file.close()
        assert len(turns.read_text().splitlines()) == kept
    with pytest.raises(errors.UsageError, match="holds results already"):
        ResultFile(out, resume=False)

    # One is damaged, and the last one torn: both are measured again.
    lines = turns.read_bytes()[:-9].splitlines(keepends=True)
    lines[3] = lines[3].replace(b'"sample":{', b'"sample":{"more":1,')
    turns.write_bytes(b"".join(lines))
    file = ResultFile(out, resume=True)
    for result in measure(target, grid, protocol, turns=file.turns):
        file.append(result)
    rows = list(file.rows.values())
    file.close()
    assert [(row.n_gen, len(row.samples_ns)) for row in rows] == [(2, 3), (3, 3)]
    starts = [[run["start_ms"] for run in row.runs] for row in rows]
    assert starts[0][0] < starts[1][0] < starts[1][1] < starts[0][1]
    assert not turns.exists()


@pytest.mark.parametrize(
    "content", ["my diary\n", "my diary", "[1]\n", '{"run_key": "a"}\n', '{"diary":']
)
def test_a_file_that_is_in_the_way_of_turns_is_left_alone(
    tmp_path: pathlib.Path, content: str
) -> None:
    turns = tmp_path / "rows.jsonl.turns"
    turns.write_text(content)
    with pytest.raises(errors.UsageError, match="something else"):
        ResultFile(tmp_path / "rows.jsonl", resume=True)
    assert turns.read_text() == content
    assert not (tmp_path / "rows.jsonl").exists()


def test_turns_that_are_nested_too_deeply_are_no_turns(tmp_path: pathlib.Path) -> None:
    turns, refused = tmp_path / "rows.jsonl.turns", 0
    for depth in range(sys.getrecursionlimit() - 200, sys.getrecursionlimit()):
        turns.write_text(f'{{"run_key":"a","repetition":{"[" * depth}{"]" * depth}}}\n')
        try:
            TurnFile(turns).close(complete=set())
        except errors.UsageError:
            refused += 1
    assert refused


def test_one_command_at_a_time_writes_a_file(tmp_path: pathlib.Path) -> None:
    file = ResultFile(tmp_path / "rows.jsonl", resume=True)
    with pytest.raises(errors.UsageError, match="another command"):
        ResultFile(tmp_path / "rows.jsonl", resume=True)
    file.close()
    ResultFile(tmp_path / "rows.jsonl", resume=True).close()


def test_other_files_are_not_continued(rows: list[Row], tmp_path: pathlib.Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("my notes\n")
    with pytest.raises(errors.UsageError, match="line 1 is not a row"):
        ResultFile(path, resume=True)
    assert path.read_text() == "my notes\n"
    for notes in ("my notes", '{"notes": 1}'):
        path.write_text(notes)
        with pytest.raises(errors.UsageError, match="line 1 is not a row"):
            ResultFile(path, resume=True)
        assert path.read_text() == notes
    with pytest.raises(errors.IoError):
        ResultFile(path / "rows.jsonl", resume=False)
    new = tmp_path / "new" / "folder" / "rows.jsonl"
    ResultFile(new, resume=False).close()
    assert not new.exists()  # nothing was written
    new.touch()
    ResultFile(new, resume=False).close()
    assert new.read_bytes() == b""  # somebody else's
    # Damaged rows are not either.
    damages: list[dict[str, Any]] = [{"run_key": [1]}, {"flags": None}, {"samples_ns": {}}]
    damages += [{"avg_ts": math.nan}, {"stddev_ts": -math.inf}]
    for damage in damages:
        path.write_text(json.dumps(rows[0].as_dict() | damage) + "\n")
        with pytest.raises(errors.UsageError, match="line 1 is not a row"):
            ResultFile(path, resume=True)
    path.write_text(
        re.sub('"avg_ts": [^,]*', '"avg_ts": 1e999', json.dumps(rows[0].as_dict())) + "\n"
    )
    with pytest.raises(errors.UsageError, match="line 1 is not a row"):
        ResultFile(path, resume=True)
    # Rows of versions before the schema stay, and are not counted.
    path.write_text('{"n_prompt": 8, "n_gen": 0}\n')
    file = ResultFile(path, resume=True)
    assert file.rows == {}
    file.close()
    assert path.read_text() == '{"n_prompt": 8, "n_gen": 0}\n'
