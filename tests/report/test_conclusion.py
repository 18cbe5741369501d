# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""The page opens with what the rows say, and shows all of it at the width of a laptop."""

from __future__ import annotations

import itertools
import json
import pathlib
import re
import shutil
import subprocess

import pytest

from moe_mobile.base.text import digits
from tests.cli.program import ok, ok_json
from tests.report.rows import Json, figures_of, row, write

NAME = "Qwen3-30B-A3B-Instruct-2507 8da4w"


def fast(speed: float, **changes: object) -> Json:
    speeds = [speed * 0.98, speed, speed * 1.02]
    return row(avg_ts=speed, gen_ts=speed, samples_ts=speeds, **changes)


def conclusions(tmp_path: pathlib.Path, *rows: Json) -> list[str]:
    found: list[str] = ok_json("report", write(tmp_path / "rows.jsonl", *rows))["conclusions"]
    return found


def test_the_fastest_is_named_with_its_lead(tmp_path: pathlib.Path) -> None:
    rows = [fast(speed, config={"cache": cache}) for cache, speed in
            (("25%", 700.0), ("50%", 1035.0), ("100%", 2070.0))]  # fmt: skip
    (said,) = conclusions(tmp_path, *rows)
    found = re.fullmatch(
        r"tg4: cache 100% is fastest with 2,070 tokens/s, 2 times cache 50% \(1,035\), 95 % "
        r"interval (1\.\d+) to (2\.\d+)\.",
        said,
    )
    assert found is not None, said
    page = tmp_path / "page.html"
    ok("report", tmp_path / "rows.jsonl", "-o", page)
    text = page.read_text()
    lead = text.index('<p class="lead">tg4: <b>cache 100%</b> is fastest with 2,070 tokens/s')
    assert text.index("<h1>") < lead < text.index("<dl>")


def test_what_is_resident_is_one_configuration(tmp_path: pathlib.Path) -> None:
    """Whatever size of cache was asked for: the winner is compared with another one."""
    rows = [
        fast(speed, config={"residency": residency, "cache": cache})
        for residency, cache, speed in (
            ("slots", "25%", 700.0), ("slots", "50%", 1035.0),
            ("resident", "25%", 2000.0), ("resident", "50%", 2070.0),
        )
    ]  # fmt: skip
    (said,) = conclusions(tmp_path, *rows)
    assert said.startswith("tg4: resident · run 2 is fastest with 2,070 tokens/s, 2 times ")
    assert "times slots · cache 50% (1,035)" in said
    assert said.endswith(" Its 2 runs had 2,000 to 2,070 tokens/s.")
    (alone,) = conclusions(tmp_path, *rows[2:])
    assert alone.startswith("tg4: tiny 8da4w runs at 2,000 to 2,070 tokens/s in 2 runs. Run 2 ")


def test_repeated_rows_are_compared_with_each_other(tmp_path: pathlib.Path) -> None:
    """The rows of before and after a change differ in their time alone."""
    hot = "throttled in repetition 1 (thermal status 3)"
    rows = [
        fast(speed, test_time=f"2026-11-25T0{hour}:00:00Z")
        for hour, speed in enumerate((1014.0, 900.0, 507.0))
    ]
    (said,) = conclusions(tmp_path, *rows)
    found = re.fullmatch(
        r"tg4: tiny 8da4w runs at 507 to 1,014 tokens/s in 3 runs. Run 3 \(507\): 0.5 times run 1 "
        r"\(1,014\), 95 % interval 0.4\d+ to 0.5\d+.",
        said,
    )
    assert found is not None, said
    rows[1]["flags"] = [hot]
    (said,) = conclusions(tmp_path, *rows)
    assert said.endswith("these were flagged: 1 other row.")
    (said,) = conclusions(tmp_path, fast(100.0), fast(100.5))
    assert "in 2 runs. Run 2 (100.5): no difference from run 1 (100) is shown (95 % " in said
    regime = {"order": "sequential", "warmup": 1, "gate": None, "charging": False}
    unlike = [fast(100.0, regime=regime), fast(150.0, regime=regime | {"warmup": 9})]
    (said,) = conclusions(tmp_path, *unlike)
    assert said.endswith("run 2 runs at 150 tokens/s. No other row was measured in the same way.")


def test_none_of_equal_rows_is_the_fastest(tmp_path: pathlib.Path) -> None:
    equal = {"samples_ts": [100.0] * 3}
    rows = [row(**equal), row(config={"lanes": 4}, **equal)]
    (said,) = conclusions(tmp_path, *rows)
    assert said == "tg4: lanes 2 runs at 100 tokens/s, as fast as lanes 4."


@pytest.mark.parametrize("speed", [0, -5])
def test_what_did_not_run_is_no_speed(tmp_path: pathlib.Path, speed: float) -> None:
    rows = [row(avg_ts=speed, samples_ts=[speed] * 3, config={"lanes": n}) for n in (2, 4)]
    assert conclusions(tmp_path, *rows) == []


def test_a_lossy_winner_is_said_to_be_lossy(tmp_path: pathlib.Path) -> None:
    lossy = {"routing": {"lossy": True}, "changed_share": 0.157}
    rows = [fast(100.0), fast(150.0, config={"routing": "cache-prior:0.2,J=2"}, **lossy)]
    (said,) = conclusions(tmp_path, *rows)
    assert "(lossy: 15.7 % of the experts it chooses are others" in said
    assert said.endswith("The fastest that is not lossy: routing exact, 100 tokens/s.")


def test_what_cannot_be_compared_is_not(tmp_path: pathlib.Path) -> None:
    regime = {"order": "sequential", "warmup": 1, "gate": None, "charging": False}
    rows = [fast(100.0, regime=regime), fast(150.0, config={"lanes": 4},
            regime=regime | {"warmup": 9})]  # fmt: skip
    (said,) = conclusions(tmp_path, *rows)
    assert said.endswith(" runs at 150 tokens/s. No other row was measured in the same way.")
    # Nor is the fastest without loss looked for among rows of another regime.
    lossy = {"routing": {"lossy": True}, "regime": regime | {"warmup": 9}}
    rows = [fast(100.0, regime=regime)] + [
        fast(speed, config={"lanes": lanes}, **lossy) for lanes, speed in ((2, 200.0), (4, 150.0))
    ]
    (said,) = conclusions(tmp_path, *rows)
    assert "lanes 2 · routing exact (lossy) is fastest with 200 tokens/s" in said
    assert "not lossy" not in said
    even = [fast(100.0), fast(100.5, config={"lanes": 4})]
    (said,) = conclusions(tmp_path, *even)
    assert "but no difference from lanes 2 (100) is shown" in said
    (said,) = conclusions(tmp_path, fast(100.0))
    assert said == "tg4: tiny 8da4w runs at 100 tokens/s."
    assert conclusions(tmp_path, row(avg_ts=None)) == []


def test_each_test_has_its_sentence(tmp_path: pathlib.Path) -> None:
    prompt = {"n_prompt": 8, "n_gen": 0, "prompt_ts": 9.0}
    more = [fast(8.0, n_gen=length) for length in (8, 16, 32, 64)]
    rows = (fast(9.0, **prompt), fast(8.0), fast(7.0, config={"lanes": 4}), *more)
    said = conclusions(tmp_path, *rows)
    assert [one.split(":")[0] for one in said] == ["tg4", "tg8", "tg16", "tg32", "tg64", "pp8"]


def test_flags_are_said_of_the_rows_that_a_sentence_rests_on(tmp_path: pathlib.Path) -> None:
    hot = "throttled in repetition 1 (thermal status 3)"
    filling = "the cache was 40 % full when a repetition began"
    ends = " It may be otherwise, for these were flagged: "

    def row_of(cache: str, speed: float, *flags: str) -> Json:
        return fast(speed, config={"cache": cache}, flags=["virtual phone", *flags])

    (said,) = conclusions(
        tmp_path, row_of("50%", 100.0), row_of("25%", 300.0, hot, f"{filling}: x")
    )
    assert said.endswith(f"{ends}cache 25% ({hot}, {filling}).")
    (said,) = conclusions(tmp_path, row_of("50%", 100.0, hot), row_of("25%", 300.0))
    assert said.endswith(f"{ends}cache 50% ({hot}).")
    rows = [row_of("50%", 100.0, hot), row_of("25%", 300.0), row_of("30%", 200.0)]
    (said,) = conclusions(tmp_path, *rows)
    assert said.endswith(f"{ends}1 other row.")
    (said,) = conclusions(tmp_path, row_of("50%", 100.0, hot, hot, filling, "a", "b"))
    assert said.endswith(f" runs at 100 tokens/s.{ends}tiny 8da4w ({hot}, {filling}, and 2 more).")
    lossy = "lossy: routing max-rank:4 changes what the model computes"
    (said,) = conclusions(tmp_path, row_of("50%", 100.0), row_of("25%", 300.0, lossy))
    assert "flagged" not in said


@pytest.mark.parametrize(
    ("value", "significant", "text"),
    [
        (2070, 3, "2,070"), (2070.4, 4, "2,070"), (99.96, 3, "100"), (0.0000123, 3, "0.0000123"),
        (1.5e9, 4, "1,500,000,000"), (0.5, 4, "0.5"), (0, 3, "0"), (float("inf"), 3, "inf"),
    ],
)  # fmt: skip
def test_no_number_has_an_exponent(value: float, significant: int, text: str) -> None:
    assert digits(value, significant) == text


def test_what_no_row_has_takes_no_room(tmp_path: pathlib.Path) -> None:
    page = tmp_path / "page.html"
    same = {"flags": ["virtual phone"]}
    rows = (fast(9.0, **same), fast(8.0, config={"lanes": 4}, **same))
    ok("report", write(tmp_path / "rows.jsonl", *rows), "-o", page)
    text = page.read_text()
    head = re.findall(r'<th scope="col"[^>]*><button type="button">([^<]*)<', text)
    assert head == [
        "configuration", "test", "tokens/s", "±", "p50 ms", "p95 ms", "p99 ms", "hits %",
        "MiB/token",
    ]  # fmt: skip
    assert 'id="energy"' not in text
    assert "<li>No row has energy: no battery was read.</li>" in text
    assert "virtual phone: its cores" in text  # said once for all


def test_names_of_percentiles_do_not_touch(tmp_path: pathlib.Path) -> None:
    page = tmp_path / "page.html"
    close = fast(9.0, itl_p50_ms=10.0, itl_p95_ms=10.1, itl_p99_ms=10.2)
    ok("report", write(tmp_path / "rows.jsonl", close), "-o", page)
    latency = next(
        one
        for one in figures_of(page.read_text()).values()
        if "p50" in str(one["layout"]["annotations"])
    )
    notes = [one for one in latency["layout"]["annotations"] if one["text"].startswith("p")]
    places = [280 * one["y"] / 11 + one.get("yshift", 0) for one in notes]
    assert [one["text"] for one in notes] == ["p50", "p95", "p99"]
    assert all(above - below >= 13 for below, above in itertools.pairwise(places))


_MEASURE = """<script>addEventListener("load", () => setTimeout(() => {
  const all = (which, measure) => [...document.querySelectorAll(which)].map(measure);
  const boxes = all(".scroll", (one) => one.scrollWidth - one.clientWidth);
  const cells = all("td, th", (one) => one.getBoundingClientRect());
  document.title = JSON.stringify({
    cut: Math.max(...boxes), page: document.documentElement.scrollWidth - innerWidth,
    left: Math.min(...cells.map((one) => one.left)),
    right: Math.max(...cells.map((one) => one.right)),
  });
}, 500));</script></body>"""


@pytest.mark.skipif(shutil.which("chromium") is None, reason="needs chromium")
def test_all_columns_are_there_at_1280_pixels(tmp_path: pathlib.Path) -> None:
    rows = [
        fast(9.0 + lanes, model_type=name, config={"lanes": lanes, "routing": routing},
             bundle_hash=digest * 32, joules_per_token=0.123, pss_bytes=10 << 30, ttft_ms=1234.5,
             wait_share=0.5, flags=[f"throttled in repetition {lanes} (thermal status 2)"])
        for name, digest in ((NAME, "ab"), ("Qwen1.5-MoE-A2.7B-Chat 8da4w", "cd"))
        for lanes in (1, 2, 4)
        for routing in ("exact", "cache-prior:0.25,J=2+drop-cold:0.75")
    ]  # fmt: skip
    page = tmp_path / "page.html"
    ok("report", write(tmp_path / "rows.jsonl", *rows), "-o", page)
    page.write_text(page.read_text().replace("</body>", _MEASURE))
    shown = subprocess.run(
        ["chromium", "--headless", "--no-sandbox", "--disable-gpu", "--window-size=1280,900",
         "--virtual-time-budget=20000", "--dump-dom", f"file://{page}"],
        capture_output=True, text=True, timeout=1200, check=True,
    ).stdout  # fmt: skip
    title = re.search(r"<title>(\{.*?\})</title>", shown)
    assert title is not None
    found = json.loads(title[1])
    assert found["cut"] <= 0
    assert found["page"] <= 0
    assert 0 <= found["left"] < found["right"] <= 1280
