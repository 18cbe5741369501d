# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""The page of results: whole, alone, honest about what it does not compare, and safe."""

from __future__ import annotations

import html.parser
import json
import pathlib
import re
from typing import Any

import pytest

from moe_mobile.report.load import read_results
from moe_mobile.report.page import make_page
from tests.cli.program import failed, ok, ok_json, run_cli
from tests.report.rows import ROW, Json, figures_of, row, run, write


class _Page(html.parser.HTMLParser):
    """What a page loads, and the text of its scripts."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.loads: list[str] = []
        self.texts: list[str] = []
        self.open: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in ("meta", "link", "br"):
            self.open.append(tag)
        loads = {"src", "data", "poster"} | ({"href"} if tag == "link" else set())
        self.loads += [
            f"{tag} {value}"
            for name, value in attrs
            if name in loads and value != "data:,"  # an empty icon, lest a browser ask for one
        ]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] not in ("script", "style"):
            self.texts.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.texts).split())


def page_of(tmp_path: pathlib.Path, *rows: object) -> tuple[str, _Page]:
    out = tmp_path / "page.html"
    ok("report", write(tmp_path / "rows.jsonl", *rows), "-o", out)
    text = out.read_text()
    return text, _Page(text)


def test_a_page_is_alone_and_holds_its_rows(tmp_path: pathlib.Path) -> None:
    rows = [row(), row(config={"cache": "25%"}, avg_ts=50.0, samples_ts=[49.0, 50.0, 51.0])]
    text, page = page_of(tmp_path, *rows)
    assert page.loads == []
    assert page.open == []
    for shown in ("tiny 8da4w", "cache 50%", "cache 25%", "tg4", "100", "ab" * 32):
        assert shown in page.text
    embedded = re.search(r'id="data">(.*?)</script>', text, re.DOTALL)
    assert embedded is not None
    assert json.loads(embedded[1]) == rows


def test_rows_that_differ_in_one_setting_are_compared(tmp_path: pathlib.Path) -> None:
    slow = row(config={"cache": "25%"}, avg_ts=50.0, samples_ts=[49.0, 50.0, 51.0])
    path = write(tmp_path / "rows.jsonl", row(), slow)
    answer = ok_json("report", path)
    (comparison,) = answer["comparisons"]
    assert (comparison["setting"], comparison["verdict"]) == ("cache", "slower")
    assert comparison["value"] == pytest.approx(0.5, rel=0.01)
    assert comparison["low"] < comparison["value"] < comparison["high"]
    assert answer["refused"] == []


def test_rows_of_different_regimes_are_refused(tmp_path: pathlib.Path) -> None:
    regime = {"order": "sequential", "warmup": 1, "gate": None, "charging": False}
    cold = row(regime=regime | {"warmup": 0}, config={"cache": "25%"})
    rows = [row(regime=regime), cold]
    answer = ok_json("report", write(tmp_path / "rows.jsonl", *rows))
    assert answer["comparisons"] == []
    assert answer["refused"][0]["reasons"]
    _, page = page_of(tmp_path, *rows)
    assert "Not compared" in page.text
    assert answer["refused"][0]["reasons"][0] in page.text


def test_hostile_names_are_escaped(tmp_path: pathlib.Path) -> None:
    evil = "</script><script>alert(1)</script><img src=x onerror=alert(1)>"
    hostile = row(model_type=evil, flags=[evil], cpu_info=evil, bundle_hash=evil)
    text, page = page_of(tmp_path, hostile)
    assert page.loads == []
    assert "<script>alert(1)" not in text
    assert "alert(1)" in page.text


def test_any_member_may_be_missing(tmp_path: pathlib.Path) -> None:
    for name in ROW:
        if name not in ("n_prompt", "n_gen"):
            page_less = {key: value for key, value in row().items() if key != name}
            path = write(tmp_path / "rows.jsonl", page_less)
            assert make_page(read_results([path]), "title")


@pytest.mark.parametrize(
    ("content", "code", "cause"),
    [
        ("", 2, "no row"),
        ("not JSON\n", 2, "line 1"),
        ('{"answer": 42}\n', 2, "not a row of results"),
        ("[1, 2]\n", 2, "no rows"),
        (json.dumps(ROW | {"schema_version": 99}) + "\n", 3, "schema version 99"),
    ],
)
def test_files_without_results_are_reported(
    tmp_path: pathlib.Path, content: str, code: int, cause: str
) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(content)
    error = failed(code, "report", path)
    assert cause in error["cause"]
    assert error["file"] == str(path)
    assert failed(6, "report", tmp_path / "none")["file"] == str(tmp_path / "none")


def test_a_row_that_was_cut_off_is_left_out(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(ROW) + "\n" + json.dumps(ROW)[:200])
    answer = ok_json("report", path)
    assert len(answer["rows"]) == 1
    assert "cut off" in answer["notes"][0]


def test_a_page_that_cannot_be_written(tmp_path: pathlib.Path) -> None:
    path = write(tmp_path / "rows.jsonl", row())
    result = run_cli("report", path, "-o", tmp_path / "rows.jsonl" / "page.html")
    assert result.returncode == 6
    assert "Traceback" not in result.stderr


def test_heat_is_one_chart_per_device_and_session(tmp_path: pathlib.Path) -> None:
    def at(*times: str, **changes: Any) -> Json:
        return row(runs=[run(f"2026-11-25T{time}Z") for time in times], **changes)

    same = [at("07:00:00", "07:02:00"), at("07:01:00", "07:03:00", config={"cache": "25%"})]
    text, _ = page_of(tmp_path, *same)
    charts = [name for name in figures_of(text) if name.startswith("heat")]
    assert charts == ["heat-0"]
    lane = next(t for t in figures_of(text)["heat-0"]["data"] if t.get("yaxis") == "y3")
    assert lane["x"] == sorted(lane["x"])
    assert ["cache 25%" in name for name in lane["hovertext"]] == [False, True, False, True]

    text, page = page_of(tmp_path, *same, at("09:00:00", config={"cache": "75%"}))
    assert sum(name.startswith("heat") for name in figures_of(text)) == 2
    assert "from 2026-11-25 09:00:00 UTC" in page.text


def test_a_page_says_why_a_chart_is_missing(tmp_path: pathlib.Path) -> None:
    _, page = page_of(tmp_path, row(energy_note="it was charging"))
    assert "No row has energy: it was charging" in page.text
    assert "No row has temperatures" in page.text
    assert "nothing to compare it with" in page.text


def test_a_few_samples_are_not_drawn_over_time(tmp_path: pathlib.Path) -> None:
    def sampled(count: int) -> Json:
        samples = [{"t_ms": 500.0 * i, "pss": 1 << 20, "major_faults": i} for i in range(count)]
        return row(runs=[run("2026-11-25T07:00:00Z", samples=samples)])

    text, page = page_of(tmp_path, sampled(2))
    assert not any(figure["layout"].get("yaxis2") for figure in memory_charts(text))
    assert "1 of 1 rows: fewer than 3 samples per repetition" in page.text
    text, page = page_of(tmp_path, sampled(3))
    assert any(figure["layout"].get("yaxis2") for figure in memory_charts(text))
    assert "samples per repetition" not in page.text


def memory_charts(text: str) -> list[Json]:
    return [figure for name, figure in figures_of(text).items() if name.startswith("memory")]


def test_colours_and_marks_are_explained(tmp_path: pathlib.Path) -> None:
    times = {f"{name}_ns": 1000 for name in ("dense", "attention", "expert", "wait")}
    token = {"phase": "decode", "count": 1, "total_ns": 9000, **times}
    tokens = [[token | {"misses": 2}, token | {"misses": 0}]] * 3
    _, page = page_of(tmp_path, row(tokens=tokens, itl_ns=[]), row(config={"cache": "25%"}))
    for shown in ("waiting for flash", "RssAnon", "what the engine planned", "p95"):
        assert shown in page.text
    for shown in ("no miss (3 tokens)", "with misses, larger for more (3)", "no difference shown"):
        assert shown in page.text


def test_flags_are_explained_and_counted(tmp_path: pathlib.Path) -> None:
    _, page = page_of(tmp_path, row(flags=["virtual phone"]), row(config={"lanes": 4}))
    assert "nothing here is a phone's speed (1 of 2 rows)" in page.text


def test_large_numbers_have_no_exponent(tmp_path: pathlib.Path) -> None:
    regime = {"gate": {"limit_c": 40.0, "timeout_s": 2e6}, "seed": 1234567}
    _, page = page_of(tmp_path, row(avg_ts=123456.0, stddev_ts=2345.0, regime=regime))
    assert "123,456 2,345" in page.text
    assert "gate 40 °C for at most 2,000,000 s, seed 1234567" in page.text
    assert "e+" not in page.text


def test_axes_of_logarithms_have_whole_labels() -> None:
    from moe_mobile.report.figure import logarithmic

    axis: Json = {"rangemode": "tozero"}
    logarithmic(axis, 0.3, 40)
    assert "rangemode" not in axis
    assert axis["ticktext"][2:9] == ["0.5", "1", "2", "5", "10", "20", "50"]
