# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""Replays of traces in files: figures worked out by hand, and the command `simulate`."""

from __future__ import annotations

import csv
import json
import statistics
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from numpy.typing import NDArray

from moe_mobile.base import limits
from moe_mobile.base.router import SCORES, RouterSpec
from moe_mobile.cli import cli
from moe_mobile.cli.simulate import command
from moe_mobile.device.local import LocalDevice
from moe_mobile.errors import BudgetError, IoError, MoeMobileError, UsageError
from moe_mobile.routing.capacity import Capacity, parse_capacity
from moe_mobile.routing.facts import MoeFacts
from moe_mobile.routing.flash import PROFILES, measure_flash, parse_flash
from moe_mobile.routing.profile import CacheProfile, read_profile, write_profile
from moe_mobile.routing.replay import Replayed, replay
from moe_mobile.runner import Runner
from tests.bundle.samples import write_sample
from tests.bundles import DemoMaker
from tests.cli.program import failed, ok, ok_json
from tests.files import pipe
from tests.oracles.routing import Pool
from tests.routing.traces import write


def choosing(chosen: Sequence[Sequence[int]], experts: int) -> NDArray[np.float32]:
    """Logits of one layer that choose these experts, best first."""
    logits = np.zeros((len(chosen), 1, experts), np.float32)
    for token, ranked in enumerate(chosen):
        for rank, expert in enumerate(ranked):
            logits[token, 0, expert] = 9 - rank
    return logits


def capacities(text: str) -> list[Capacity]:
    return [parse_capacity(part) for part in text.split(",")]


def totals(row: Replayed) -> tuple[int, ...]:
    return row.capacity, row.hits, row.misses, row.loads, row.evictions, row.lifetime_tokens


@pytest.fixture
def two_sequences(tmp_path: Path) -> Path:
    """Four tokens, and then one that would hit 3 if its cache were not empty."""
    logits = choosing([[0, 1], [0, 2], [0, 1], [3, 2], [1, 3]], 4)
    return write(tmp_path / "two", logits, 2, sequences=(4, 1))


def test_hits_loads_and_lifetimes_worked_out_by_hand(two_sequences: Path) -> None:
    calls: list[tuple[int, int]] = []
    found = replay(
        [two_sequences],
        ["exact"],
        capacities("50%,3"),
        progress=lambda _, done, total, __="": calls.append((done, total)),
    )
    assert (found.sequences, found.tokens, found.prompt_tokens) == (2, 5, 0)
    two, three = found.rows
    # Of 2: token 1 and 2 find 0 and push the other out after a token; token 3 pushes out 0, after
    # three tokens, and 1, after one.
    assert totals(two) == (2, 2, 8, 8, 4, 1 + 1 + 3 + 1)
    assert two.mean_lifetime == 1.5
    # Of 3: nothing leaves but 1, for token 3; token 1 finds 0, token 2 both, token 3 the 2.
    assert totals(three) == (3, 4, 6, 6, 1, 3)
    assert (three.hit_rate, three.loads_per_token_layer, three.loads_per_token) == (0.4, 1.2, 1.2)
    assert (three.changed, three.lossy) == (0, False)
    assert calls == [(0, 10), (4, 10), (5, 10), (9, 10)]


def test_traces_of_one_model_are_added_up(two_sequences: Path, tmp_path: Path) -> None:
    single = write(tmp_path / "one", choosing([[0, 1], [1, 0]], 4), 2)
    found = replay([two_sequences, single], ["exact"], capacities("3"))
    assert (found.sequences, found.tokens, found.prompt_tokens) == (3, 7, 0)
    assert totals(found.rows[0]) == (3, 4 + 2, 6 + 2, 6 + 2, 1, 3)


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("model", {"model": "small"}),
        ("layers", {"layers": (1,)}),
        ("top_k", {"top_k": 1}),
        ("renormalize", {"router": RouterSpec()}),
        ("router", {"router": RouterSpec("relu", renormalize=True)}),
        ("source", {"source": "transformers"}),
        ("source_id", {"source_id": "cd" * 32}),
        ("precision", {"precision": "8da4w"}),
    ],
)
def test_traces_of_different_origin_are_not_added_up(
    name: str, changes: dict[str, Any], two_sequences: Path, tmp_path: Path
) -> None:
    other = write(tmp_path / "other", choosing([[0, 1]], 4), **{"top_k": 2} | changes)
    with pytest.raises(UsageError, match=f"{two_sequences}: the {name} is ") as caught:
        replay([two_sequences, other], ["exact"], capacities("3"))
    assert caught.value.file == str(other)
    assert caught.value.remedy


def test_a_trace_counts_once(two_sequences: Path, tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(two_sequences)
    for again in (two_sequences, link, str(tmp_path / "." / two_sequences.name)):
        with pytest.raises(UsageError, match=f"same file as {two_sequences}") as caught:
            replay([two_sequences, again], ["exact"], capacities("3"))
        assert caught.value.file == str(again)


def test_a_prompt_is_not_counted(tmp_path: Path) -> None:
    logits = choosing([[0, 1], [0, 2], [0, 1], [3, 2], [1, 3]], 4)
    trace = write(tmp_path / "prompts", logits, 2, sequences=(2, 3), prompt_tokens=2)
    found = replay([trace], ["exact"], capacities("3"))
    assert (found.tokens, found.prompt_tokens) == (5, 4)
    # All that is decoded is [1, 3], after the prompt [0, 1], [3, 2].
    assert [row.tokens for row in found.rows] == [1]
    assert totals(found.rows[0]) == (3, 0, 2, 2, 0, 0)
    (warm,) = replay([trace], ["exact"], capacities("3"), initial_cache="prompt").rows
    assert totals(warm)[1:4] == (1, 1, 1)  # of 0 and 1, the prompt's second token pushed out 1
    profile = CacheProfile("tiny", 4, {0: (1, 2, 3, 0)})
    (known,) = replay([trace], ["exact"], capacities("3"), initial_cache=profile).rows
    assert (known.hits, known.misses) == (2, 0)
    other = CacheProfile("tiny", 4, {1: (1, 2)})
    with pytest.raises(UsageError, match="the profile is of tiny") as caught:
        replay([trace], ["exact"], capacities("3"), initial_cache=other)
    assert caught.value.setting == "initial_cache"
    namesake = CacheProfile("small", 4, {0: (1, 2, 3, 0)})
    with pytest.raises(UsageError, match="is of small, and the model is tiny"):
        replay([trace], ["exact"], capacities("3"), initial_cache=namesake)
    all_prompt = write(tmp_path / "all", logits, 2, prompt_tokens=5)
    with pytest.raises(UsageError, match="nothing is decoded"):
        replay([all_prompt], ["exact"], capacities("3"))
    both = replay([all_prompt, trace], ["exact"], capacities("3"))
    assert (both.prompt_tokens, both.rows[0].tokens) == (9, 1)


def test_first_counts_the_layers_of_the_model(tmp_path: Path) -> None:
    logits = np.random.default_rng(0).standard_normal((50, 2, 8), dtype=np.float32)
    trace = write(tmp_path / "dense", logits, 2, layers=(3, 7))
    routings = [f"cache-prior:1,first={n}" for n in (2, 3, 4, 7, 8)]
    changed = [row.changed for row in replay([trace], routings, capacities("4")).rows]
    assert changed[0] == changed[1] > changed[2] == changed[3] > changed[4] == 0


def test_belady_hits_where_lru_never_does(tmp_path: Path) -> None:
    """In turns through one expert more than the cache holds: 0 and then 2 are worth keeping."""
    path = write(tmp_path / "turns", choosing([[0], [1], [2], [0], [1], [2]], 3), 1)
    lru, belady = replay([path], ["exact"], capacities("2"), belady=True).rows
    assert (lru.eviction, lru.hits, belady.eviction, belady.hits) == ("lru", 0, "belady", 2)
    assert len(replay([path], ["exact"], capacities("2"), eviction="belady", belady=True).rows) == 1


@pytest.fixture
def near_choice(tmp_path: Path) -> Path:
    """Its second token likes 3 a little better than 1, which is cached."""
    logits = np.array([[[3, 2, 0, 1]], [[3, 1.9, 0, 2]]], np.float32)
    return write(tmp_path / "near", logits, 2)


def test_a_lossy_routing_is_marked_and_saves_loads(near_choice: Path) -> None:
    routings = ["exact", "cache-prior:1", "cache-prior:1,J=2", "exact+drop-cold:2", "exact,first=1"]
    found = replay([near_choice], routings, capacities("2"))
    exact, prior, off, drop, first = found.rows
    assert (exact.hits, exact.loads, exact.changed) == (1, 3, 0)
    assert (prior.hits, prior.loads, prior.changed_share) == (2, 2, 0.25)
    assert prior.routing == "cache-prior:1,J=1"
    assert (off.routing, off.hits) == ("exact", 1)
    assert "off" in off.note
    # Both tokens' second experts weigh 0.27, less than 2 / 2, and are missing: only 0 is read.
    assert (drop.hits, drop.misses, drop.loads) == (1, 3, 1)
    assert [row.lossy for row in (exact, prior, off, drop, first)] == [0, 1, 0, 1, 0]


def test_the_lru_cliff_is_where_it_is_said_to_be() -> None:
    """An LRU of its own, below the sizes that the simulator takes."""
    model = MoeFacts("m", (0, 1, 2), experts=4, top_k=2)
    assert (model.token_cycle, model.never_hits) == (6, 4)
    random = np.random.default_rng(0)
    hits = dict.fromkeys((model.never_hits, model.never_hits + 1), 0)
    for capacity in hits:
        pool = Pool(capacity, "lru")
        for step in range(600):
            keys = [(step % 3, int(expert)) for expert in random.permutation(4)[:2]]
            hits[capacity] += sum(key in pool.by_use for key in keys)
            pool.access(keys)
    assert hits[4] == 0 < hits[5]


def test_a_capacity_that_does_not_fit(near_choice: Path) -> None:
    with pytest.raises(BudgetError, match="25% of 4 experts per layer are 1") as caught:
        replay([near_choice], ["exact"], capacities("50%,25%"))
    assert "at least 2" in str(caught.value.remedy)
    with pytest.raises(UsageError, match="fewer than 5"):
        replay([near_choice], ["exact"], capacities("5"))


def test_flash() -> None:
    assert [parse_flash(profile.name) for profile in PROFILES] == list(PROFILES)
    assert parse_flash("250").ms(1e6) == 4.0
    assert parse_flash("1000000/1200").name == "1,000,000/1200 MB/s"
    assert parse_flash("250").expert_ms(1e6, 5e6) == 4.0
    assert parse_flash("250/1000").expert_ms(1e6, 5e6) == 9.0
    for text in ("ufs9", "0", "-3", "nan", "inf", "1/0", "1/2/3", "/"):
        with pytest.raises(UsageError, match="is neither a flash memory"):
            parse_flash(text)


def test_the_command(near_choice: Path, tmp_path: Path) -> None:
    rows_file = tmp_path / "rows.csv"
    arguments = ["--cache", "2", "--routing", "exact", "--routing", "cache-prior:1"]
    arguments += ["--expert-bytes", "1000", "--flash", "1", "--flash", "ufs3.1", "--belady"]
    found = ok_json("simulate", near_choice, *arguments, "--csv", rows_file)
    assert (found["tokens"], found["expert_bytes"], len(found["rows"])) == (2, 1000, 3)
    exact, prior, bound = found["rows"]
    # Two loads in two tokens, 1000 bytes each, at a million bytes per second.
    assert (prior["bytes_per_token"], prior["flash_ms_per_token"]["1 MB/s"]) == (1000, 1.0)
    assert exact["flash_ms_per_token"]["ufs3.1"] == pytest.approx(1500 / 1.69e9 * 1e3)
    both = 1500 / 1.69e9 * 1e3 + 2000 / 67.2e9 * 1e3
    assert exact["expert_ms_per_token"]["ufs3.1"] == pytest.approx(both)
    assert found["dram_bytes_per_second"] == {"1 MB/s": None, "ufs3.1": 67.2e9}
    assert [row["lossy"] for row in found["rows"]] == [False, True, False]
    assert bound["eviction"] == "belady"
    with open(rows_file, newline="") as file:
        written = list(csv.DictReader(file))
    assert [row["routing"] for row in written] == ["exact", "cache-prior:1,J=1", "exact"]
    assert [row["flash_ms_per_token 1 MB/s"] for row in written] == ["1.5", "1.0", "1.5"]


def test_the_table(near_choice: Path, tmp_path: Path) -> None:
    wide = write(tmp_path / "wide", np.zeros((3, 4, 8), np.float32), 2, prompt_tokens=1)

    def shown(*arguments: object) -> list[str]:
        result = CliRunner().invoke(cli, ["simulate", *map(str, arguments)])
        assert result.exit_code == 0, result.output
        return result.output.splitlines()

    lines = shown(near_choice, "--cache", "2", "--routing", "cache-prior:1")
    assert lines[0].startswith("tiny: 1 MoE layers, the best 2 of 4 experts; 2 tokens in 1 seq")
    cells = "cache-prior:1,J=1 lossy lru 2 (50 %) 50.0 % 1.000 25.0 % -"
    assert lines[4].split() == cells.split()
    assert not any("cliff" in line or "ms" in line for line in lines)
    lines = shown(wide, "--pool", "global", "--expert-bytes", "1MiB", "--cache", "25%")
    assert lines[2].split()[-4:] == ["ms", "ufs3.1", "ms", "ufs4.0"]
    assert any("bytes used / DRAM" in line and "1.0 MiB" in line for line in lines)
    assert any("uses 8 of 32 experts (25.0 %)" in x and "up to 6 (18.8 %)" in x for x in lines)
    assert "; 3 tokens, 1 of them prompts, in 1 sequence; initial cache: cold;" in lines[0]


def test_routings_after_commas_are_several(near_choice: Path) -> None:
    arguments = ["--cache", "2", "--routing", "exact, cache-prior:1,J=1", "--routing", "exact"]
    result = CliRunner().invoke(cli, ["simulate", str(near_choice), *arguments, "--json"])
    rows = json.loads(result.output)["rows"]
    assert [row["requested"] for row in rows] == ["exact", "cache-prior:1,J=1"]


@pytest.mark.parametrize(
    ("arguments", "exit_code", "setting", "cause"),
    [
        (["--flash", "ufs4.0"], 2, "--flash", "an expert's size"),
        (["--flash", "x", "--expert-bytes", "1"], 2, "--flash", "is neither a flash memory"),
        (["--expert-bytes", "1", "--bundle", "b"], 2, "--expert-bytes, --bundle", "both"),
        (["--flash", "measured", "--expert-bytes", "1"], 2, "--flash", "measuring needs a bundle"),
        (["--device", "any"], 2, "--device", "only --flash measured"),
        (["--expert-bytes", "0"], 2, "--expert-bytes", "an expert's size must be above 0"),
        (["--cache", "50%,"], 2, "--cache", "invalid capacity"),
        (["--cache", "1"], 9, "--cache", "fewer than the 2"),
        (["--cache", "2", "--routing", "magic"], 2, "--routing", "is not a routing method"),
        (["--cache", "2", "--routing", "exact,,"], 2, "--routing", "a routing is missing"),
        (
            ["--cache", "2", "--eviction", "belady", "--routing", "max-rank:3"],
            2,
            "--eviction",
            "knows the future",
        ),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_the_command_refuses_invalid_arguments(
    arguments: list[str], exit_code: int, setting: str, cause: str, near_choice: Path
) -> None:
    with pytest.raises(MoeMobileError, match=cause) as caught:
        command.main([str(near_choice), *arguments], standalone_mode=False)
    assert (caught.value.exit_code, caught.value.setting) == (exit_code, setting)
    assert caught.value.remedy


@pytest.fixture
def used(tmp_path: Path) -> Path:
    """A profile of :func:`near_choice`'s model."""
    path = tmp_path / "profile.json"
    write_profile(path, CacheProfile("tiny", 4, {0: (0, 1, 3, 2)}))
    return path


def test_a_profile_is_saved_and_used(near_choice: Path, tmp_path: Path) -> None:
    used = tmp_path / "used.json"
    arguments = ["simulate", near_choice, "--cache", "2"]
    cold = ok_json(*arguments, "--save-profile", used)
    assert read_profile(used) == CacheProfile("tiny", 4, {0: (0, 1, 3, 2)})
    warm = ok_json(*arguments, "--initial-cache", used)
    told = [(row["initial_cache"], row["misses"]) for row in cold["rows"] + warm["rows"]]
    assert told == [("cold", 3), (str(used), 1)]
    error = failed(2, *arguments, "--initial-cache", "promt")
    assert (error["setting"], error["file"]) == ("--initial-cache", None)
    assert error["remedy"].startswith("Did you mean 'prompt'? Valid values: cold, prompt, or")


def test_rows_never_replace_their_inputs(near_choice: Path, used: Path, tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    before = {path: path.read_bytes() for path in (near_choice, used)}
    command = ["simulate", near_choice, "--initial-cache", used, "--cache", "2"]
    for option in ("--csv", "--save-profile"):
        for kept, named in ((near_choice, "TRACE"), (used, "--initial-cache")):
            error = failed(2, *command, option, tmp_path / "sub" / ".." / kept.name)
            assert error["cause"] == "the first would replace what the second names"
            assert error["setting"] == f"{option}, {named}"
    new = (tmp_path / "new", tmp_path / "sub" / ".." / "new")
    error = failed(2, *command, "--csv", new[0], "--save-profile", new[1])
    assert error["cause"] == "both name the same file"
    assert {path: path.read_bytes() for path in before} == before
    assert not new[0].exists()


def test_unwritable_outputs_are_errors_before_the_work(
    near_choice: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def replayed(*_: object, **__: object) -> None:
        pytest.fail("the work has begun")

    monkeypatch.setattr("moe_mobile.routing.replay.replay", replayed)
    kept = tmp_path / "kept.json"
    for option, other in (("--csv", "--save-profile"), ("--save-profile", "--csv")):
        arguments = [str(near_choice), option, "/proc/x", other, str(kept)]
        with pytest.raises(MoeMobileError) as caught:
            command.main(arguments, standalone_mode=False)
        assert caught.value.file == "/proc/x"
    assert not kept.exists()


@pytest.mark.parametrize("option", ["--csv", "--save-profile"])
def test_a_pipe_gets_what_a_file_would(option: str, near_choice: Path, tmp_path: Path) -> None:
    pipe(tmp_path / "pipe")
    with subprocess.Popen(["cat", tmp_path / "pipe"], stdout=subprocess.PIPE) as reader:
        try:
            ok("simulate", near_choice, "--cache", "50%", option, tmp_path / "pipe")
            assert reader.stdout is not None
            read = reader.stdout.read()
        finally:
            reader.kill()  # it would wait for a writer that failed
    ok("simulate", near_choice, "--cache", "50%", option, tmp_path / "file")
    assert read == (tmp_path / "file").read_bytes()


@pytest.mark.parametrize("option", ["--csv", "--save-profile"])
def test_a_pipe_that_nobody_reads_is_an_error(
    option: str, near_choice: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "PIPE_S", 0.05)
    pipe(tmp_path / "pipe")
    arguments = [str(near_choice), "--cache", "50%", option, str(tmp_path / "pipe")]
    with pytest.raises(IoError, match="nothing was read from this pipe") as caught:
        command.main(arguments, standalone_mode=False)
    assert caught.value.file == str(tmp_path / "pipe")


def test_the_size_of_an_expert_from_a_bundle(near_choice: Path, tmp_path: Path) -> None:
    bundle = tmp_path / "bundle"
    manifest, _ = write_sample(bundle, seed=1)
    layers = manifest.moe_layers
    moe, size = manifest.moe, manifest.memory.expert_bytes
    assert layers
    assert size > 0
    logits = np.zeros((1, len(layers), moe.num_experts), np.float32)
    alike: dict[str, Any] = {"layers": layers, "router": RouterSpec(moe.router.score)}
    trace = write(tmp_path / "fits", logits, moe.top_k, **alike)
    arguments = ["--bundle", str(bundle), "--cache", "100%", "--json"]
    found = CliRunner().invoke(command, [str(trace), *arguments])
    row = json.loads(found.output)["rows"][0]
    assert row["bytes_per_token"] == len(layers) * moe.top_k * size  # nothing is cached yet
    score = next(score for score in SCORES if score != moe.router.score)
    other = write(tmp_path / "other", logits, moe.top_k, layers=layers, router=RouterSpec(score))
    for path, name in ((near_choice, "number of layers"), (other, "router")):
        told = f"does not go with the traces of tiny: the {name} is"
        with pytest.raises(UsageError, match=told) as caught:
            command.main([str(path), *arguments], standalone_mode=False)
        assert caught.value.file == str(bundle)


def test_measured_flash_gives_the_times_that_were_measured(
    demo_bundle: DemoMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured: list[dict[str, Any]] = []
    request = Runner.request

    def noted(self: Runner, command: str, **members: Any) -> dict[str, Any]:
        answer = request(self, command, **members)
        if command == "measure_misses":
            measured.append(answer)
        return answer

    monkeypatch.setattr(Runner, "request", noted)
    for bytes in (1000, 10_000):
        flash = measure_flash(LocalDevice(), demo_bundle(), bytes)
        read, forward = (
            statistics.median(measured[-1][name]) / 1e6 for name in ("raw_read_ns", "forward_ns")
        )
        assert min(read, forward) > 0
        # Whatever an expert has, loading it takes as long.
        assert flash.ms(bytes) == pytest.approx(read)
        assert flash.expert_ms(bytes, 4 * bytes) == pytest.approx(read + 4 * forward)
    assert [len(answer["raw_read_ns"]) for answer in measured] == [64, 64]
