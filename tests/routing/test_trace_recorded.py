# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""What the engine records is what transformers records, and what the engine decides upon."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from numpy.typing import NDArray

from benchmarks.perplexity import heldout_tokens
from moe_mobile.cli.trace import command
from moe_mobile.demo import heldout_text
from moe_mobile.device.local import LocalDevice
from moe_mobile.errors import MoeMobileError, RuntimeFailedError, UsageError
from moe_mobile.routing import trace_engine
from moe_mobile.routing.trace import Trace, read_trace
from moe_mobile.routing.trace_engine import record_engine
from moe_mobile.routing.transformers_model import open_checkpoint
from moe_mobile.routing.transformers_trace import record_transformers
from moe_mobile.runner import Runner
from moe_mobile.virtual_phone import VirtualPhone
from tests.bundles import BundleMaker, CheckpointMaker, DemoMaker
from tests.cli.program import ok, ok_json
from tests.oracles.routing import Pool
from tests.tiny import tiny_prompt

# Sums of float32 in another order. Logits of the tiny models are of size 1 to 3.
WORST = 1e-3
FAMILIES = ("mixtral", "qwen2_moe", "qwen3_moe-dense-layer", "olmoe", "lfm2_moe")


def engine_trace(bundle: Path, ids: list[int], **settings: Any) -> Trace:
    return record_engine(LocalDevice(), bundle, ids, settings={"threads": 1, **settings})


def best(trace: Trace) -> NDArray[np.int64]:
    """The experts that exact routing selects, in rank order: ties go to the lower index."""
    return np.argsort(-trace.router_logits, axis=-1, kind="stable")[..., : trace.top_k]


@pytest.mark.parametrize("name", FAMILIES)
def test_the_engine_and_transformers_record_the_same(
    name: str, bundle: BundleMaker, checkpoint: CheckpointMaker
) -> None:
    ids = tiny_prompt(40)
    engine = engine_trace(bundle(name, "fp32"), ids, context=24)
    other = record_transformers(open_checkpoint(checkpoint(name)), ids, context=24)
    assert engine.router_logits.std() > 0.1
    np.testing.assert_allclose(engine.router_logits, other.router_logits, rtol=0, atol=WORST)
    for trace, source, precision in (
        (engine, "engine", "fp32"),
        (other, "transformers", "float32"),
    ):
        assert (trace.source, trace.precision) == (source, precision)
        assert trace.sequences == (24, 16)
        layers = {"qwen3_moe-dense-layer": (1,), "lfm2_moe": (1, 2, 3)}
        assert trace.layers == layers.get(name, (0, 1))
        assert trace.token_ids.tolist() == ids
        assert trace.router.renormalize == (name in ("mixtral", "lfm2_moe"))
    assert engine.router == other.router
    assert bool(engine.router.bias) == (name == "lfm2_moe")
    # The second sequence has no past.
    alone = engine_trace(bundle(name, "fp32"), ids[24:])
    assert np.array_equal(alone.router_logits, engine.router_logits[24:])


def test_parts_change_no_bit(demo_bundle: DemoMaker, monkeypatch: pytest.MonkeyPatch) -> None:
    ids = heldout_tokens(50)
    steps: list[tuple[str, int, int, str]] = []
    whole = engine_trace(demo_bundle(), ids)
    monkeypatch.setattr(trace_engine, "_PART_BYTES", 7 * whole.router_logits[:1].nbytes)
    parts = record_engine(
        LocalDevice(), demo_bundle(), ids, settings={"threads": 1, "context": 40},
        progress=lambda stage, done, total, detail="": steps.append((stage, done, total, detail)),
    )  # fmt: skip
    assert np.array_equal(parts.router_logits[:40], whole.router_logits[:40])
    done = [tokens for stage, tokens, total, _ in steps if stage == "trace" and total == 50]
    assert done == sorted(done)
    assert {7, 35, 40, 47, 50} <= set(done)


def test_a_replay_hits_as_the_engine_does(demo_bundle: DemoMaker) -> None:
    """Exact routing of what was recorded, through an LRU cache: the engine's own counts."""
    ids = heldout_tokens(64)
    selected = best(engine_trace(demo_bundle(), ids))
    with Runner() as runner:
        info = runner.request(
            "open", bundle=str(demo_bundle()), settings={"threads": 1, "cache": "25%"}
        )
        tokens = runner.request("score", token_ids=ids)["stats"]["tokens"]
    assert [(t["hits"], t["misses"]) for t in tokens] == replay(selected, info["plan"]["slots"])


def replay(selected: NDArray[np.int64], slots: int) -> list[tuple[int, int]]:
    """Hits and misses of each token in a global LRU cache that starts cold."""
    pool, counts = Pool(slots, "lru"), []
    for token in selected.tolist():
        hits = 0
        for layer, experts in enumerate(token):
            keys = [(layer, expert) for expert in experts]
            hits += sum(key in pool.by_use for key in keys)
            pool.access(keys)
        counts.append((hits, selected[0].size - hits))
    return counts


def test_the_command_records_from_both(
    demo_bundle: DemoMaker, shared_phone: VirtualPhone, tmp_path: Path
) -> None:
    text = tmp_path / "text"
    text.write_text(heldout_text()[:2000])
    bundle, options = demo_bundle(), ("-f", text, "-n", 60, "-c", 50, "--prompt-tokens", 4)
    facts = ok_json("trace", bundle, *options, "-o", tmp_path / "engine", "-t", 1)
    assert (facts["tokens"], facts["sequences"], facts["device"]) == (60, [50, 10], "local")
    assert facts["bytes"] == (tmp_path / "engine").stat().st_size
    # In this process, which has imported transformers.
    arguments = ("demo", *options, "-o", tmp_path / "transformers")
    result = CliRunner().invoke(command, [str(argument) for argument in arguments])
    assert (result.exit_code, result.stderr) == (0, "")
    assert "60 in 2 sequences" in result.stdout
    for name in ("engine", "transformers"):
        trace = read_trace(tmp_path / name)
        assert trace.source == name
        assert trace.token_ids.tolist() == heldout_tokens(60)
        assert (trace.prompt_tokens, trace.sequences) == (4, (50, 10))

    there = ("-o", tmp_path / "phone", "-t", 1, "--device", shared_phone.serial)
    ok("trace", bundle, *options, *there)
    assert (tmp_path / "phone").read_bytes() == (tmp_path / "engine").read_bytes()


@pytest.mark.parametrize(
    ("source", "arguments", "setting"),
    [
        ("bundle", "", None),
        ("bundle", "--token-ids 5 -p x", None),
        ("bundle", "-p ''", "--prompt"),
        ("bundle", "--token-ids 4096", "--token-ids"),
        ("bundle", "--token-ids 5 --dtype float32", "--dtype"),
        ("bundle", "--token-ids 5 --torch-device cpu", "--torch-device"),
        ("demo", "--token-ids 5 --cache 50%", "--cache"),
        ("demo", "--token-ids 5 --precision low", "--precision"),
        ("demo", "--token-ids 5 -s x", "--device"),
        ("demo", "--token-ids 5 -c 1025", "--context"),
        ("demo", "--token-ids 5,6 --prompt-tokens 2", "--prompt-tokens"),
        ("bundle", "--token-ids 5,6,7 -c 2 --prompt-tokens 2", "--prompt-tokens"),
        ("nothing", "--token-ids 5", None),
    ],
)
def test_invalid_arguments(
    source: str, arguments: str, setting: str | None, demo_bundle: DemoMaker, tmp_path: Path
) -> None:
    name = str(demo_bundle()) if source == "bundle" else source
    out = tmp_path / "out"
    result = CliRunner().invoke(command, [name, "-o", str(out), *shlex.split(arguments)])
    assert isinstance(result.exception, UsageError)
    assert result.exception.setting == setting
    assert not out.exists()


def test_a_trace_never_replaces_its_inputs(
    demo_bundle: DemoMaker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def recorded(*_: object, **__: object) -> None:
        pytest.fail("the work has begun")

    monkeypatch.setattr(trace_engine, "record_engine", recorded)
    text = tmp_path / "text"
    text.write_text("mine")
    bundle = demo_bundle()
    command_line = [str(bundle), "-f", str(text), "-o"]
    for out, named in (
        (text, "--file"),
        (bundle / "bundle.json", "BUNDLE|MODEL"),
        (Path("/proc/x.st"), None),
        (tmp_path, None),
    ):
        result = CliRunner().invoke(command, [*command_line, str(out)])
        assert isinstance(result.exception, MoeMobileError), result.output
        assert result.exception.file == str(out)
        assert result.exception.setting == (named and f"--out, {named}")
    assert text.read_text() == "mine"


@pytest.mark.parametrize("answer", [{}, {"router_logits": 5}, {"router_logits": "AAAA"}])
def test_an_answer_of_another_length_is_a_typed_error(
    answer: dict[str, Any], demo_bundle: DemoMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = Runner.request

    def request(self: Runner, command: str, **members: Any) -> dict[str, Any]:
        given = asked(self, command, **members)
        return answer if command == "trace" else given

    monkeypatch.setattr(Runner, "request", request)
    with pytest.raises(RuntimeFailedError, match="router logits of 2 tokens"):
        engine_trace(demo_bundle(), [5, 6])


def test_transformers_refuses_tokens_and_devices_that_are_not_there(
    checkpoint: CheckpointMaker, tmp_path: Path
) -> None:
    opened = open_checkpoint(checkpoint("olmoe"))
    with pytest.raises(UsageError, match="vocabulary"):
        record_transformers(opened, [160])
    with pytest.raises(UsageError, match="PyTorch cannot use"):
        record_transformers(opened, [5], torch_device="abacus")
    config = json.loads((checkpoint("olmoe") / "config.json").read_text())
    coarse = record_transformers(opened, tiny_prompt(8), dtype="bfloat16")
    assert coarse.layers == tuple(range(config["num_hidden_layers"]))
    assert coarse.precision == "bfloat16"
    # 8 bits of mantissa: the lower half of each float32 is zero.
    assert not (coarse.router_logits.view(np.uint32) & 0xFFFF).any()
