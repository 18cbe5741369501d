# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""generate, bench and demo with the engine."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import pathlib
import re
import signal
import subprocess
from collections.abc import Callable

import pytest

from moe_mobile import Engine
from moe_mobile.bundle import inspect_bundle
from moe_mobile.cli.demo import exported_for_the_demo, real_size, remove_results
from moe_mobile.errors import IoError
from moe_mobile.export import options as export_options
from tests.bundles import FEW_ROWS, DemoMaker
from tests.cli.conftest import byte_tokenizer
from tests.cli.program import COMMAND, INTERRUPTIBLE, failed, ok, ok_json, run_cli

PROMPT = "Once upon a time 🙂"


@pytest.fixture(scope="module")
def prompt_ids() -> list[int]:
    return byte_tokenizer().encode(PROMPT).ids


def test_generate_gives_the_engines_tokens(bundle: pathlib.Path, prompt_ids: list[int]) -> None:
    answer = ok_json("generate", bundle, "-p", PROMPT, "-n", 24, "--ignore-eos")
    with Engine(bundle) as engine:
        assert answer["token_ids"] == list(engine.generate(prompt_ids, 24, ignore_eos=True))
    assert answer["prompt_tokens"] == len(prompt_ids)
    assert answer["new_tokens"] == 24
    tokenizer = byte_tokenizer()
    whole = tokenizer.decode(prompt_ids + answer["token_ids"])
    assert PROMPT + answer["text"] == whole
    # What the line of statistics quotes follows from the parts.
    decoded = [token for token in answer["stats"]["tokens"] if token["phase"] == "decode"]
    assert len(decoded) == 23
    hits, misses = (sum(token[name] for token in decoded) for name in ("hits", "misses"))
    assert hits + misses == 23 * 2 * 2
    assert answer["hit_rate"] == pytest.approx(hits / (hits + misses))
    read = sum(token["bytes_read"] for token in decoded)
    assert answer["mib_read_per_token"] == pytest.approx(read / 23 / 2**20)
    assert answer["tokens_per_second"] > 0
    assert answer["ttft_ms"] > 0


def test_generate_prints_text_and_one_line_on_stderr(bundle: pathlib.Path) -> None:
    result = run_cli("generate", bundle, "-p", PROMPT, "-n", 12)
    assert result.returncode == 0
    text = ok_json("generate", bundle, "-p", PROMPT, "-n", 12)["text"]
    assert result.stdout == text + "\n"
    (line,) = result.stderr.strip().splitlines()
    for part in ("tok/s", "first token after", "cache hits", "MiB read per token", "waiting"):
        assert part in line


def test_the_prompt_may_come_from_a_file_or_stdin_or_as_ids(
    bundle: pathlib.Path, tmp_path: pathlib.Path, prompt_ids: list[int]
) -> None:
    wanted = ok("generate", bundle, "-p", PROMPT, "-n", 8)
    (tmp_path / "prompt").write_text(PROMPT)
    assert ok("generate", bundle, "-f", tmp_path / "prompt", "-n", 8) == wanted
    piped = run_cli("generate", bundle, "-f", "-", "-n", 8, input=PROMPT)
    assert piped.stdout == wanted
    ids = ",".join(map(str, prompt_ids))
    assert ok("generate", bundle, "--token-ids", ids, "-n", 8) == wanted


def test_settings_change_the_work_and_not_the_text(bundle: pathlib.Path) -> None:
    common = ("generate", bundle, "-p", PROMPT, "-n", 16)
    wanted = ok_json(*common, "--cache", "100%")
    for options in (["--cache", "60%", "--lanes", 4], ["--residency", "programs"], ["-t", 1]):
        answer = ok_json(*common, *options)
        assert answer["token_ids"] == wanted["token_ids"]
    resident = ok_json(*common, "--residency", "resident")
    assert resident["token_ids"] == wanted["token_ids"]
    assert resident["hit_rate"] == 1.0


def test_sampling_depends_on_the_seed_alone(bundle: pathlib.Path) -> None:
    def sample(seed: int) -> list[int]:
        options = ("--temperature", 1.5, "--top-p", 0.99, "--top-k", 200, "--seed", seed)
        answer = ok_json("generate", bundle, "-p", PROMPT, "-n", 16, "--ignore-eos", *options)
        tokens: list[int] = answer["token_ids"]
        return tokens

    assert sample(3) == sample(3) != sample(4)


@pytest.mark.skipif(not pathlib.Path("/dev/full").exists(), reason="there is no /dev/full")
def test_full_stdout_is_a_typed_error(bundle: pathlib.Path) -> None:
    for arguments in (
        ["generate", bundle, "-p", PROMPT, "-n", 2],
        ["generate", bundle, "-p", PROMPT, "-n", 2, "--json"],
        ["inspect", bundle, "--json"],
        ["verify", bundle, "--json"],
        ["prepare", bundle, "--json"],
        ["bench", bundle, "-p", 0, "-n", 2, "-r", 1, "--json"],
    ):
        command = [*COMMAND, *map(str, arguments)]
        with open("/dev/full", "w") as full:
            result = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True)
        assert result.returncode == 7, (arguments, result.stderr)
        assert "no space left on the device" in result.stderr
        assert "Traceback" not in result.stderr
        assert "Exception ignored" not in result.stderr


def test_verbose_shows_the_memory_plan(bundle: pathlib.Path) -> None:
    result = run_cli("generate", bundle, "-p", PROMPT, "-n", 1, "--verbose")
    assert "KV cache" in result.stderr
    assert "total" in result.stderr


def test_too_small_a_cache_is_refused_and_may_be_allowed(bundle: pathlib.Path) -> None:
    error = failed(9, "generate", bundle, "-p", PROMPT, "--cache", "20%")
    assert "one token uses" in error["cause"]
    assert (error["file"], error["setting"]) == (None, "--cache")
    ok("generate", bundle, "-p", PROMPT, "-n", 2, "--cache", "20%", "--allow-below-cycle")


def test_a_bundle_without_a_tokenizer_wants_ids(
    copy_bundle: Callable[[], pathlib.Path],
) -> None:
    bundle = copy_bundle()
    manifest = json.loads((bundle / "bundle.json").read_text())
    manifest["files"] = [f for f in manifest["files"] if f["path"] != "tokenizer.json"]
    (bundle / "bundle.json").write_text(json.dumps(manifest, indent=2, sort_keys=True) + "\n")
    (bundle / "tokenizer.json").unlink()
    remedy = failed(2, "generate", bundle, "-p", "x")["remedy"]
    assert "--token-ids" in remedy
    assert "export again from a folder with tokenizer.json" in remedy
    error = failed(2, "generate", bundle, "--token-ids", "4294967295")
    assert error["setting"] == "--token-ids"
    assert "outside the vocabulary" in error["cause"]
    assert "tokenizer" in error["remedy"]
    answer = ok_json("generate", bundle, "--token-ids", "5,17,9", "-n", 4)
    assert (answer["text"], len(answer["token_ids"])) == (None, 4)
    shown = ok("generate", bundle, "--token-ids", "5 17 9", "-n", 4)
    assert shown.split() == [str(token) for token in answer["token_ids"]]


@pytest.mark.parametrize("option", ["--temperature", "--top-p"])
@pytest.mark.parametrize("value", ["nan", "inf", "-inf"])
def test_odd_numbers_are_refused(bundle: pathlib.Path, option: str, value: str) -> None:
    error = failed(2, "generate", bundle, "--token-ids", "5", "-n", 1, option, value)
    assert error["setting"] == option


def test_a_byte_order_mark_is_not_text(bundle: pathlib.Path, tmp_path: pathlib.Path) -> None:
    text = tmp_path / "text"
    text.write_bytes(b"\xef\xbb\xbfOnce")
    assert ok_json("generate", bundle, "-f", text, "-n", 1)["prompt_tokens"] == 4
    text.write_bytes(b"\xef\xbb\xbf")
    assert "the file is empty" in failed(2, "generate", bundle, "-f", text, "-n", 1)["cause"]


@pytest.mark.parametrize("damage", ["hash", "content"])
def test_a_damaged_tokenizer_is_not_used(
    copy_bundle: Callable[[], pathlib.Path], damage: str
) -> None:
    bundle = copy_bundle()
    data = b'{"version": 1}' + b" " * ((bundle / "tokenizer.json").stat().st_size - 14)
    (bundle / "tokenizer.json").write_bytes(data)
    if damage == "content":
        manifest = json.loads((bundle / "bundle.json").read_text())
        for file in manifest["files"]:
            if file["path"] == "tokenizer.json":
                file["sha256"] = hashlib.sha256(data).hexdigest()
        (bundle / "bundle.json").write_text(json.dumps(manifest, indent=2, sort_keys=True) + "\n")
    error = failed(5 if damage == "hash" else 4, "generate", bundle, "-p", "x")
    assert error["file"] == str(bundle / "tokenizer.json")


def test_text_streams_and_ctrl_c_ends_it_cleanly(bundle: pathlib.Path) -> None:
    # Slow on purpose: nearly every expert of every token is a program to load.
    command = [*INTERRUPTIBLE, "generate", str(bundle), "-p", "x", "-n", "255", "--ignore-eos"]
    command += ["--residency", "programs", "--cache", "20%", "--allow-below-cycle"]
    for _ in range(5):
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
            assert process.stdout is not None
            assert process.stderr is not None
            text = process.stdout.read(1)
            process.send_signal(signal.SIGINT)
            text += process.stdout.read()
            error = process.stderr.read().decode()
        assert "Traceback" not in error
        if process.returncode != 0:  # else it was done before we were
            break
    assert process.returncode == 130
    assert "error: stopped by the user" in error
    assert len(text) > 1
    assert text.endswith(b"\n")


def test_bench_rows_come_from_the_engine(bundle: pathlib.Path) -> None:
    rows = ok_json(
        "bench", bundle, "-p", "20", "-n", "6", "-r", "2", "--cache", "60%", "-pg", "4,3"
    )
    assert [(row["n_prompt"], row["n_gen"]) for row in rows] == [(20, 0), (0, 6), (4, 3)]
    facts = ok_json("inspect", bundle)
    for row in rows:
        assert row["bundle_hash"] == facts["hash"]
        assert row["config"]["context"] == row["n_prompt"] + row["n_gen"]
        assert (row["config"]["cache"], row["config"]["lanes"]) == ("60%", 2)
        assert len(row["samples_ns"]) == 2
        assert min(row["samples_ns"]) > 0
        assert 0 < row["rss_anon_bytes"] <= row["rss_bytes"] <= row["peak_rss_bytes"]
        assert 0 <= row["wait_share"] < 1
        assert 0 <= row["hit_rate"] <= 1
        assert row["plan"]["slots"] * row["plan"]["slot_bytes"] > 0
        assert row["load_ms"] > 0
        assert row["fallbacks"] == []
    prompt, decode, both = rows
    assert prompt["ttft_ms"] > 0
    assert decode["ttft_ms"] is None
    assert [len(values) for values in decode["itl_ns"]] == [6, 6]
    assert decode["itl_p50_ms"] <= decode["itl_p95_ms"] <= decode["itl_p99_ms"]
    assert both["avg_ns"] > 0


def test_bench_says_that_a_cache_still_fills(bundle: pathlib.Path) -> None:
    asked = ("bench", bundle, "-p", 0, "-n", 2, "-r", 1, "--cache", "75%", "--pool")
    for pool in ("global", "layer"):
        (filling,) = ok_json(*asked, pool, "--warmup", 0)
        assert filling["flags"] == [
            "the cache was 0 % full when a repetition began: more warm-up runs, or warmup full, "
            "fill it"
        ]
        assert filling["regime"]["warmup"] == 0
        (warm,) = ok_json(*asked, pool, "--warmup", 40)
        assert (warm["flags"], warm["regime"]["warmup"]) == ([], 40)
        (cold,) = ok_json(*asked, pool, "--warmup", 0, "--initial-cache", "cold")
        assert cold["flags"] == []


def test_a_warm_up_fills_the_cache(bundle: pathlib.Path) -> None:
    asked = ("bench", bundle, "-p", 0, "-n", 2, "-r", 2, "--cache", "100%")
    (row,) = ok_json(*asked, "--warmup", 1)
    (flag,) = row["flags"]
    found = re.fullmatch(
        r"the cache was (\d+) % full when a repetition began, after 2 tokens of warm-up: "
        r"filling it takes at least about (\d+) tokens, more if experts are used unevenly; warmup "
        r"full runs as many as it takes",
        flag,
    )
    assert found is not None, flag
    assert int(found[1]) == int(100 * row["runs"][0]["cache_fill"])
    assert [run["warmup_tokens"] for run in row["runs"]] == [2, 2]
    result = run_cli(*asked, "--warmup", "full", "--json")
    (full,) = json.loads(result.stdout)
    tokens = full["runs"][0]["warmup_tokens"]
    assert (full["flags"], full["regime"]["warmup"]) == ([], "full")
    assert [run["cache_fill"] for run in full["runs"]] == [1, 1]
    assert f"a warm-up of {tokens:,} tokens" in result.stderr
    # An estimate from two tokens: of the right size.
    assert tokens / 8 < int(found[2]) < 8 * tokens


@pytest.mark.parametrize("tokens", [1, 4])
def test_a_warm_up_of_short_runs_fills_the_cache(tokens: int, demo_bundle: DemoMaker) -> None:
    asked = ("bench", demo_bundle("8da8w"), "-p", 0, "-n", tokens, "-r", 1, "--cache", "100%")
    (row,) = ok_json(*asked, "--warmup", "full")
    assert (row["flags"], row["runs"][0]["cache_fill"]) == ([], 1)


def test_the_budget_that_an_error_asks_for_is_enough(demo_bundle: DemoMaker) -> None:
    asked = ("generate", demo_bundle("8da8w"), "--token-ids", "1,2", "-n", 1, "--cache")
    remedy = failed(9, *asked, "100KiB")["remedy"]
    found = re.search(r"to at least (\d+\.\d MiB)", remedy)
    assert found is not None, remedy
    ok(*asked, found[1])
    ok(*asked, found[1].replace(" ", ""))


def test_a_warm_up_that_cannot_fill_the_cache_is_refused(bundle: pathlib.Path) -> None:
    asked = ("bench", bundle, "-p", 0, "-n", 2, "-r", 1)
    error = failed(2, *asked, "--warmup", "full", "--initial-cache", "cold")
    assert error["setting"] == "--warmup"
    assert "begins with a cache that is cold" in error["cause"]
    assert failed(2, *asked, "--warmup", "ful")["remedy"].startswith("Did you mean 'full'?")
    assert failed(2, *asked, "--warmup", "1001")["setting"] == "--warmup"


def test_an_impossible_routing_is_an_error_before_measuring(
    bundle: pathlib.Path,
) -> None:
    asked = ("bench", bundle, "-p", 0, "-n", 2, "-r", 1, "--routing", "exact,cache-prior:0.2,J=99")
    result = run_cli(*asked)
    assert result.returncode == 2
    assert "J=99" in result.stderr
    assert result.stdout == ""


def test_bench_multiplies_lists_into_rows(bundle: pathlib.Path) -> None:
    text = ok(
        "bench", bundle, "-p", "0", "-n", "3,5", "-r", "1", "--format", "csv",
        "--cache", "60%,90%", "--residency", "slots,resident", "-t", "1",
    )  # fmt: skip
    rows = list(csv.DictReader(io.StringIO(text)))
    settings = [json.loads(row["config"]) for row in rows]
    found = [(s["residency"], s["cache"]) for s in settings]
    # With all experts in memory there is no size of the cache to vary.
    assert [(*pair, int(row["n_gen"])) for pair, row in zip(found, rows, strict=True)] == [
        (*pair, n)
        for pair in (("slots", "60%"), ("slots", "90%"), ("resident", found[-1][1]))
        for n in (3, 5)
    ]
    assert all(row["n_threads"] == "1" for row in rows)
    assert all(row["hit_rate"] == "1.0" for row in rows[4:])


def test_bench_keeps_the_rows_before_an_error(bundle: pathlib.Path) -> None:
    result = run_cli("bench", bundle, "-p", "0", "-n", "2", "-r", "1", "--cache", "60%,1%")
    assert result.returncode == 9
    assert result.stdout.count(" tg2 |") == 1
    assert "error: " in result.stderr


def test_bench_refuses_more_tokens_than_positions(bundle: pathlib.Path) -> None:
    error = failed(2, "bench", bundle, "-p", "0", "-n", "257")
    assert "context of this model has 256" in error["cause"]


def test_bench_draws(bundle: pathlib.Path, tmp_path: pathlib.Path) -> None:
    plot = tmp_path / "tokens.html"
    ok("bench", bundle, "-p", "0", "-n", "4", "-r", "2", "--plot", plot)
    assert "Plotly.newPlot" in plot.read_text()


def test_the_comparison_of_the_demo(
    checkpoint: pathlib.Path,
    copy_bundle: Callable[[], pathlib.Path],
    capsys: pytest.CaptureFixture[str],
) -> None:
    # A bundle that is there is not exported again.
    answer = real_size(checkpoint, copy_bundle(), show=True)
    shown = capsys.readouterr().out
    assert "from an earlier run" in shown
    slots, programs = answer["decode"]["slots"], answer["decode"]["programs"]
    assert slots["hit_rate"] == programs["hit_rate"] < 1
    assert slots["mib_read_per_token"] == pytest.approx(programs["mib_read_per_token"], rel=0.5)
    assert f"{slots['avg_ts'] / programs['avg_ts']:.1f} times as fast" in shown
    for row in (slots, programs, answer["decode"]["resident"]):
        assert f"{row['avg_ts']:.1f} ± {row['stddev_ts']:.1f}" in shown
    # Loading a program is what slots leave out.
    assert answer["misses"]["programs"]["rest_ms"] > answer["misses"]["slots"]["rest_ms"]


@pytest.mark.usefixtures("lowered_once")
def test_the_demo_replaces_a_bundle_of_another_quantization(
    checkpoint: pathlib.Path, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export_options, "DEFAULT_MAX_BATCH", FEW_ROWS)
    ok("export", checkpoint, tmp_path / "bundle", "--quant", "fp32", "--max-batch", FEW_ROWS)
    facts = exported_for_the_demo(checkpoint, tmp_path / "bundle", show=False)
    assert facts["quantization"]["name"] == "8da4w+8da8w"
    assert inspect_bundle(tmp_path / "bundle") == facts


@pytest.mark.slow
def test_the_demo_runs_as_shipped(tmp_path: pathlib.Path) -> None:
    answer = ok_json("demo", "--quick", "--dir", tmp_path)["trained"]
    assert [one.name for one in tmp_path.iterdir()] == ["trained-8da4w"]
    assert answer["new_tokens"] == 120
    assert answer["settings"]["cache"] == "50%"
    assert 0.3 < answer["hit_rate"] < 1
    assert answer["mib_read_per_token"] > 0
    # English, whatever it says.
    assert len([word for word in answer["text"].split() if word in {"the", "and", "of"}]) > 3
    again = ok("demo", "--quick", "--dir", tmp_path)
    assert "prepared by an earlier run" in again
    assert answer["text"] in again


def test_earlier_results_of_the_demo_that_stay_are_an_error(tmp_path: pathlib.Path) -> None:
    remove_results(tmp_path / "phone.jsonl")
    with pytest.raises(IoError, match="writing failed: Is a directory"):
        remove_results(tmp_path)
