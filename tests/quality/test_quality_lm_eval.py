# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""The adapter for lm-evaluation-harness, if that is installed: pip install -e '.[lm-eval]'."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks.perplexity import heldout_tokens
from moe_mobile.demo import checkpoint_dir, heldout_text
from moe_mobile.errors import UsageError
from moe_mobile.quality.score import Cache, measure_quality
from moe_mobile.quality.transformers_source import TransformersSource

pytest.importorskip("lm_eval")

from lm_eval import evaluator
from lm_eval.api.instance import Instance
from lm_eval.tasks import TaskManager

from moe_mobile.quality.lm_eval import MoeMobileLM

CONTEXT = "And the LORD said unto Moses,"


@pytest.fixture(scope="module")
def plain() -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(checkpoint_dir(), dtype=torch.float32).eval()


def request(kind: str, *arguments: Any) -> Instance:
    return Instance(request_type=kind, doc={}, arguments=arguments, idx=0)


def log_softmax(model: Any, ids: list[int]) -> Any:
    with torch.no_grad():
        return model(torch.tensor([ids])).logits[0].log_softmax(-1).numpy()


def test_exact_answers_are_the_model_s(plain: Any) -> None:
    lm = MoeMobileLM("demo")
    pairs = [(CONTEXT, " Speak unto the children of Israel"), (CONTEXT, " Zebra"), ("", "In the")]
    found = lm.loglikelihood([request("loglikelihood", *pair) for pair in pairs], disable_tqdm=True)
    for (context, continuation), (value, greedy) in zip(pairs, found, strict=True):
        ids = lm.tok_encode(context + continuation)
        before = len(lm.tok_encode(context))
        if not context:
            ids, before = [lm.prefix_token_id, *ids], 1
        rows = log_softmax(plain, ids)[before - 1 : -1]
        expected = rows[np.arange(len(rows)), ids[before:]].sum()
        assert value == pytest.approx(expected, abs=1e-3)
        assert greedy == (rows.argmax(-1).tolist() == ids[before:])

    (answer,) = lm.generate_until(
        [request("generate_until", CONTEXT, {"until": ["\n"], "max_gen_toks": 24})]
    )
    ids = lm.tok_encode(CONTEXT)
    generated = plain.generate(
        torch.tensor([ids]), max_new_tokens=24, do_sample=False, pad_token_id=0
    )
    expected_text = lm.tokenizer.decode(generated[0, len(ids) :], skip_special_tokens=True)
    assert answer == expected_text.split("\n")[0]


def test_a_rolling_text_is_decoded_as_quality_does() -> None:
    lm = MoeMobileLM("demo", routing="cache-prior:0.2", J=2, capacity="25%")
    assert lm.run.routing == "cache-prior:0.2,J=2"
    text = lm.tokenizer.decode(heldout_tokens(300))
    ids = [lm.prefix_token_id, *lm.tok_encode(text)]
    row = measure_quality(TransformersSource("demo"), ids, Cache("cache-prior:0.2,J=2", 8))
    # The harness does not compute the last token, which predicts nothing.
    (value,) = lm.loglikelihood_rolling([request("loglikelihood_rolling", text)])
    assert value == pytest.approx(-row.nll, abs=1e-3)
    assert lm.run.totals().slots == row.slots - row.layers * row.top_k


def test_a_prompt_costs_nothing_unless_it_is_decoded() -> None:
    text = heldout_text()[:1500]
    pair = request("loglikelihood", text, " God")
    long = request("loglikelihood", text, heldout_text()[1500:2000])
    values = {}
    for prompt in ("exact", "decoded"):
        for routing in ("exact", "cache-prior:0.6"):
            lm = MoeMobileLM("demo", routing=routing, capacity=6, prompt=prompt)
            values[prompt, routing] = [v for v, _ in lm.loglikelihood([pair, long])]
    assert values["exact", "exact"] == values["decoded", "exact"]
    biased = values["exact", "cache-prior:0.6"]
    assert biased[0] == values["exact", "exact"][0]
    assert abs(biased[1] - values["exact", "exact"][1]) > 0.01
    assert abs(values["decoded", "cache-prior:0.6"][0] - biased[0]) > 0.001


def test_one_pool_for_all_layers_generates_as_its_prompt_and_tokens_do() -> None:
    lm = MoeMobileLM("demo", routing="cache-prior:0.5", pool="global", capacity="25%")
    options = {"until": [], "max_gen_toks": 12}
    first, second = lm.generate_until([request("generate_until", CONTEXT, options)] * 2)
    assert first == second
    with pytest.raises(UsageError, match="samples"):
        lm.generate_until([request("generate_until", CONTEXT, {"do_sample": True})])
    with pytest.raises(UsageError, match="no room"):
        lm.generate_until([request("generate_until", CONTEXT, {"max_gen_toks": 1024})])


def test_the_harness_runs_a_task(tmp_path: Path) -> None:
    rows = []
    for verse in [line for line in heldout_text().splitlines() if len(line.split()) > 12][:6]:
        words = verse.split()
        ends = [" " + " ".join(order) for order in (words[6:], words[:5:-1])]
        rows.append({"begin": " ".join(words[:6]), "end": ends[0], "choices": ends})
    (tmp_path / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    common = f"""
dataset_path: json
dataset_kwargs:
  data_files:
    test: {tmp_path / "data.jsonl"}
test_split: test
doc_to_text: "{{{{begin}}}}"
"""
    (tmp_path / "choose.yaml").write_text(
        "task: moe_mobile_choose\noutput_type: multiple_choice\n" + common + "doc_to_target: 0\n"
        "doc_to_choice: choices\nmetric_list:\n  - metric: acc\n"
    )
    (tmp_path / "go_on.yaml").write_text(
        "task: moe_mobile_go_on\noutput_type: generate_until\n"
        + common
        + 'doc_to_target: "{{end}}"\n'
        "generation_kwargs:\n  until: ['.']\n  max_gen_toks: 8\n"
        "metric_list:\n  - metric: exact_match\n"
    )
    found = evaluator.simple_evaluate(
        model="moe-mobile",
        model_args="checkpoint=demo,routing=cache-prior:0.2,J=2,first=1+drop-cold:0.5,capacity=50%",
        tasks=["moe_mobile_choose", "moe_mobile_go_on"],
        task_manager=TaskManager(include_path=str(tmp_path), include_defaults=False),
        bootstrap_iters=0,
    )
    assert found["results"]["moe_mobile_choose"]["acc,none"] == 1
    assert found["results"]["moe_mobile_go_on"]["exact_match,none"] >= 0
    config = found["config"]
    assert config["moe_mobile_routing"] == "cache-prior:0.2,J=2,first=1+drop-cold:0.5"
    assert (config["moe_mobile_lossy"], config["moe_mobile_capacity"]) == (True, 16)
    assert config["moe_mobile_loads"] < config["moe_mobile_misses"] < config["moe_mobile_slots"]
