# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""How rows are written and drawn."""

from __future__ import annotations

import csv
import io
import json
import pathlib
import re
from collections.abc import Sequence

import pytest

from moe_mobile import errors
from moe_mobile.bench.plot import draw_results, token_parts
from moe_mobile.bench.render import FORMATS, Shown, make_renderer
from moe_mobile.bench.row import BenchTest, Row
from moe_mobile.cli.output import check_plot, write_plot
from moe_mobile.settings import EngineSettings
from tests.bench.scripted import changed, settings

_LLAMA_BENCH = (
    "build_commit build_number cpu_info gpu_info backends model_filename model_type model_size "
    "model_n_params n_batch n_ubatch n_threads n_prompt n_gen n_depth test_time avg_ns stddev_ns "
    "avg_ts stddev_ts samples_ns samples_ts"
)
LLAMA_BENCH_MEMBERS = set(_LLAMA_BENCH.split())

OBSERVER_KEYS = [
    "prompt_tokens", "generated_tokens", "model_load_start_ms", "model_load_end_ms",
    "inference_start_ms", "inference_end_ms", "prompt_eval_end_ms", "first_token_ms",
    "aggregate_sampling_time_ms", "prefill_token_per_sec", "decode_token_per_sec",
]  # fmt: skip


def _written(
    format: str,
    results: list[Row],
    *,
    asked: Sequence[EngineSettings] | None = None,
    phones: Sequence[str] = (),
    tokens: bool = False,
) -> str:
    """``asked``: the settings of the grid, if not those of the results."""
    out = io.StringIO()
    renderer = make_renderer(format, out, tokens=tokens)
    if asked is None:
        asked = [EngineSettings.from_request(result.config) for result in results]
    model = max((result.model_type for result in results), key=len, default="")
    renderer.begin([(BenchTest(0, 2), one) for one in asked], phones=phones, model=model)
    for result in results:
        renderer.row(result)
    renderer.end()
    return out.getvalue()


def test_json_has_llama_bench_members_and_ours(results: list[Row]) -> None:
    rows = json.loads(_written("json", results))
    assert [row["n_prompt"] for row in rows] == [8, 0]
    for row in rows:
        assert set(row) >= LLAMA_BENCH_MEMBERS
        assert row["bundle_hash"] == "ab" * 32
        assert row["config"]["cache"] == "50%"
        assert "tokens" not in row
    assert rows[0]["ttft_ms"] == pytest.approx(1510.0)
    assert json.loads(_written("json", [])) == []


def test_observer_lines_have_executorchs_keys(results: list[Row]) -> None:
    both = changed(results[1], n_prompt=8, samples_ns=[1_200_000_000, 1_400_000_000])
    lines = _written("observer", [*results, both]).splitlines()
    # Rows without decoded tokens have no such line.
    assert len(lines) == 4
    assert {line.partition(" ")[0] for line in lines} == {"PyTorchObserver"}
    first, _, third, _ = (json.loads(line.partition(" ")[2]) for line in lines)
    assert list(first) == [*OBSERVER_KEYS, "routing", "lossy"]
    assert (first["prompt_tokens"], first["generated_tokens"]) == (0, 2)
    assert (first["prefill_token_per_sec"], first["decode_token_per_sec"]) == (0.0, 10.0)
    start = first["inference_start_ms"]
    assert first["model_load_start_ms"] <= first["model_load_end_ms"] <= start
    assert first["first_token_ms"] == start + 150
    assert first["inference_end_ms"] == start + 200
    assert (third["prefill_token_per_sec"], third["decode_token_per_sec"]) == (8.0, 10.0)
    assert third["prompt_eval_end_ms"] == third["first_token_ms"] == start + 1000
    assert third["inference_end_ms"] == start + 1200


def _lossy(result: Row, resolved: str = "cache-prior:0.3,J=2") -> Row:
    routing = result.routing | {"resolved": resolved, "lossy": True}
    return changed(result, routing=routing)


def test_observer_lines_tell_the_routing(results: list[Row]) -> None:
    trace = {"name": "qwen.safetensors", "sha256": "c" * 64, "source": "synthetic", "tokens": 9}
    replayed = changed(_lossy(results[1]), regime=results[1].regime | {"router_trace": trace})
    lines = _written("observer", [results[1], replayed]).splitlines()
    plain, *_, last = (json.loads(line.partition(" ")[2]) for line in lines)
    assert (plain["routing"], plain["lossy"]) == ("exact", False)
    assert (last["routing"], last["lossy"]) == ("cache-prior:0.3,J=2", True)
    assert last["router_trace"] == "qwen.safetensors"


def test_json_lines_are_the_same_rows(results: list[Row]) -> None:
    lines = _written("jsonl", results).splitlines()
    assert [json.loads(line) for line in lines] == json.loads(_written("json", results))


def test_tokens_are_written_if_asked_for(results: list[Row]) -> None:
    rows = json.loads(_written("json", results, tokens=True))
    assert rows[1]["tokens"][0][0]["wait_ns"] == 60_000_000


def test_csv_has_a_column_per_scalar(results: list[Row]) -> None:
    rows = list(csv.DictReader(io.StringIO(_written("csv", results))))
    assert [float(row["avg_ts"]) for row in rows] == [6.0, 7.5]
    assert json.loads(rows[0]["config"])["lanes"] == 2
    assert rows[1]["ttft_ms"] == ""
    assert "samples_ns" not in rows[0]
    flagged = changed(results[0], flags=["lossy: so", "virtual phone"])
    (row,) = csv.DictReader(io.StringIO(_written("csv", [flagged])))
    assert row["flags"] == "lossy: so; virtual phone"


def test_markdown_is_a_table(results: list[Row]) -> None:
    lines = _written("md", results).splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[:4]]
    assert len({len(row) for row in cells}) == 1
    header, _, prompt, decode = cells
    assert "lanes" not in header
    assert dict(zip(header, prompt, strict=True))["t/s"] == "6.00 ± 2.83"
    named = dict(zip(header, decode, strict=True))
    assert (named["test"], named["t/s"], named["hit %"]) == ("tg2", "7.50 ± 3.54", "50.0")
    assert (named["ttft ms"], named["p95 ms"], named["wait %"]) == ("-", "300.00", "30.0")
    assert (named["size"], named["params"]) == ("11.00 MiB", "8.49 M")
    assert "O_DIRECT" in lines[5]


def test_a_name_with_a_bar_leaves_the_table_whole(results: list[Row]) -> None:
    named = [changed(row, model_type="mix|tral 8da4w") for row in results]
    lines = [line for line in _written("md", named).splitlines() if line.startswith("|")]
    assert {len(re.split(r"(?<!\\)\|", line)) for line in lines} == {len(lines[0].split("|"))}
    assert "mix\\|tral" in lines[2]


def test_markdown_shows_settings_that_differ(results: list[Row]) -> None:
    header = _written("md", [], asked=[settings(lanes=4, residency="programs")])
    assert "lanes" in header
    assert "residency" in header
    assert "routing" not in header


@pytest.mark.parametrize(
    ("asked", "resolved"),
    [
        ("cache-prior:auto", "cache-prior:0.3,J=2"),
        ("cumulative:0.8,J=2+drop-cold:0.75", "cumulative:0.8,J=2+drop-cold:0.75"),
        ("max-rank:6", "max-rank:6,J=1"),
        ("max-rank:6", "exact"),
    ],
)
def test_markdown_lines_up_lossy_routings(results: list[Row], asked: str, resolved: str) -> None:
    rows = [results[1], _lossy(results[1], resolved)]
    text = _written("md", rows, asked=[settings(), settings(routing=asked)])
    assert len({len(line) for line in text.split("\n\n")[0].splitlines()}) == 1
    mark = "" if resolved == "exact" else " (lossy)"
    assert f"| {resolved}{mark} " in text


def test_markdown_of_phones_tells_them_apart(results: list[Row]) -> None:
    phone = changed(
        results[1],
        device=results[1].device | {"serial": "R58M"},
        joules_per_token=0.25,
        energy_note="shorter than 30 s",
        flags=["waited too long before repetition 2"],
    )
    lines = _written("md", [phone], phones=["one", "two"]).splitlines()
    header, _, row = ([cell.strip() for cell in line.strip("|").split("|")] for line in lines[:3])
    named = dict(zip(header, row, strict=True))
    assert (named["device"], named["J/tok"]) == ("R58M", "0.25*")
    assert int(named["pss MiB"]) > 0  # of the script in place of the engine
    assert lines[-1] == (
        "- R58M, cache 50%, tg2: waited too long before repetition 2; * energy: shorter than 30 s"
    )


def _with_notes(format: str, results: list[Row]) -> list[str]:
    """Lines of a terminal that shows both; a note before each row and after the last."""
    out = io.StringIO()
    rows = [(result.test, settings()) for result in results]
    shown = Shown(
        make_renderer(format, out), rows, phones=(), note=lambda text: print(text, file=out)
    )
    for number, result in enumerate(results):
        shown.note(f"note {number}")
        shown.row(result)
    shown.note("last note")
    shown.end()
    return out.getvalue().splitlines()


def test_notes_leave_the_table_whole(results: list[Row]) -> None:
    lines = _with_notes("md", results)
    table = ["|" in line for line in lines]
    assert lines[0] == "note 0"
    assert table[1:6] == [True, True, True, True, False]
    assert lines[-2:] == ["note 1", "last note"]
    # Elsewhere nothing is torn, and a note comes when there is something to note.
    assert [line[:4] for line in _with_notes("jsonl", results)] == ["note", '{"bu'] * 2 + ["last"]


@pytest.mark.parametrize("format", FORMATS)
def test_rows_appear_as_they_are_measured(results: list[Row], format: str) -> None:
    out = io.StringIO()
    renderer = make_renderer(format, out)
    renderer.begin([(result.test, settings()) for result in results])
    sizes = []
    for result in [results[1], results[1]]:
        renderer.row(result)
        sizes.append(len(out.getvalue()))
    assert 0 < sizes[0] < sizes[1]


def test_parts_of_a_token_add_up(results: list[Row]) -> None:
    parts = token_parts(results[1])
    assert {len(values) for values in parts.values()} == {4}
    assert parts["wait"] == [60.0, 20.0, 100.0, 0.0]
    totals = [sum(values) for values in zip(*parts.values(), strict=True)]
    assert totals == pytest.approx([150.0, 50.0, 300.0, 100.0])


def test_a_plot_is_drawn(results: list[Row], tmp_path: pathlib.Path) -> None:
    figure = draw_results(results)
    assert [bar["name"] for bar in figure["data"]] == list(token_parts(results[1]))
    assert figure["data"][-1]["y"] == [60.0, 20.0, 100.0, 0.0]
    (boundary,) = figure["layout"]["shapes"]
    assert boundary["x0"] == 1.5  # between two repetitions of two tokens
    write_plot(tmp_path / "plot.html", figure)
    page = (tmp_path / "plot.html").read_text()
    assert '"name":"wait"' in page
    assert "Plotly.newPlot" in page
    assert "<script src" not in page  # it needs no network
    with pytest.raises(errors.UsageError, match="nothing was decoded"):
        draw_results(results[:1])


def test_a_plot_of_unknown_type_is_refused_before_measuring() -> None:
    with pytest.raises(errors.UsageError, match=r"\.html"):
        check_plot(pathlib.Path("plot.txt"))


def test_notes_name_the_settings_in_which_rows_differ(results: list[Row]) -> None:
    rows = [
        changed(results[1], config=results[1].config | {"lanes": lanes}, flags=["odd"])
        for lanes in (1, 2)
    ]
    *_, one, two = _written("md", rows).splitlines()
    assert (one, two) == ("- cache 50%, lanes 1, tg2: odd", "- cache 50%, lanes 2, tg2: odd")


def test_json_tells_errors_after_the_rows(results: list[Row]) -> None:
    failures = [errors.KilledError("killed"), errors.BudgetError("too small")]
    for told in (results, []):
        out = io.StringIO()
        shown = Shown(make_renderer("json", out), [], phones=(), note=lambda text: None)
        for result in told:
            shown.row(result)
        shown.end(failures)
        *rows, killed, small = json.loads(out.getvalue())
        assert len(rows) == len(told)
        assert [one["error"]["code"] for one in (killed, small)] == ["killed", "budget"]


def test_long_names_of_models_and_phones_keep_the_table_straight(results: list[Row]) -> None:
    name = "Qwen3-30B-A3B-Instruct-2507 8da4w"
    serial = "adb-39061FDJH00ABC-x1y2z3._adb-tls-connect._tcp"
    device = results[0].device | {"serial": serial}
    rows = [changed(row, model_type=name, device=device) for row in results]
    text = _written("md", rows, phones=[serial, "127.0.0.1:5555"])
    table = [line for line in text.splitlines() if line.startswith("|")]
    assert len({tuple(i for i, c in enumerate(line) if c == "|") for line in table}) == 1
    assert all(name in line and serial in line for line in table[2:])
