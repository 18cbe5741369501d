# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""``make bench``: what streaming costs on experts of real size, each part with its yardstick.

A 4-layer bundle of Qwen1.5-MoE-A2.7B's shape with random weights (240 experts of 4.9 MB) answers
four questions in one run, so that the ratios hold on a noisy machine:

(a) What does a slot miss cost against a raw O_DIRECT read of the same bytes?
(b) What does the part of a miss that is not reading cost, as programs and as slots, and what does
    that make of tokens/s when half of the experts are cached?
(c) How near does resident decoding come to ONE program that holds the same layers?
(d) How much of the wait for flash is hidden by running cached experts first?
"""

from __future__ import annotations

import argparse
import json
import pathlib
import sys

from moe_mobile.base.json_field import Json
from moe_mobile.base.statistics import percentile
from moe_mobile.bundle.quantization import DEFAULT_QUANT
from moe_mobile.cli.progress import ProgressBar
from moe_mobile.device.local import LocalDevice
from moe_mobile.errors import MoeMobileError
from moe_mobile.runner import Runner

PRESET, LAYERS = "Qwen1.5-MoE-A2.7B", 4
CACHE = "50%"
# What the ratios of (a), (b) and (c) must keep.
MOST_MISS, LEAST_GAIN, LEAST_RESIDENT = 1.25, 20.0, 0.85
ROUNDS = 5
MISSES = 120
NEW_TOKENS = 48


def median(values: list[float]) -> float:
    return percentile(values, 50)


def prepare_inputs(
    folder: pathlib.Path, progress: ProgressBar
) -> tuple[pathlib.Path, pathlib.Path]:
    """The bundle and the single program, made once and kept until their weights change."""
    from moe_mobile.export import RandomWeights, export_bundle
    from moe_mobile.model.source import open_model

    source = RandomWeights(PRESET, layers=LAYERS)
    model = open_model(source)
    weights = model.fingerprint()[:8]
    bundle = folder / f"qwen1.5-moe-4-layers-{DEFAULT_QUANT}-{weights}"
    program = folder / f"single-program-{DEFAULT_QUANT}-{weights}.pte"
    if not bundle.exists():
        export_bundle(source, bundle, DEFAULT_QUANT, progress=progress)
    if not program.exists():
        from benchmarks.single_program import write_single_program
        from moe_mobile.export.options import resolve_options
        from moe_mobile.export.plan import make_plan
        from moe_mobile.export.programs import AttentionLayerShape

        plan = make_plan(model.architecture, resolve_options(DEFAULT_QUANT))
        print("lowering the single program (about a minute)", file=sys.stderr)
        top_k = model.architecture.moe.top_k
        layer = plan.layers[0]
        assert isinstance(layer, AttentionLayerShape)  # this model has attention alone
        write_single_program(layer, plan.experts[0], LAYERS, top_k, program)
    with Runner() as runner:
        runner.request("prepare", bundle=str(bundle), progress=progress)
    return bundle, program


def decode(bundle: pathlib.Path, progress: ProgressBar, **settings: object) -> Json:
    """Decodes random tokens in a fresh process; the engine's info and one sample."""
    with Runner() as runner:
        info = runner.request(
            "open",
            bundle=str(bundle),
            settings={"context": 2 * NEW_TOKENS, **settings},
            progress=progress,
        )
        answer = runner.request(
            "bench", n_prompt=8, n_gen=NEW_TOKENS, repetitions=1, progress=progress
        )
    (sample,) = answer["samples"]
    steps = [step for step in sample["tokens"] if step["phase"] == "decode"]
    hits, misses = (sum(step[name] for step in steps) for name in ("hits", "misses"))
    return {
        # Folders of this machine do not belong in a result.
        "settings": {k: v for k, v in info["settings"].items() if not k.endswith("_dir")},
        "direct_io": info["direct_io"],
        "threads": info["settings"]["threads"],
        "bundle_hash": info["bundle_hash"],
        "tokens_per_second": len(steps) / (sample["gen_ns"] / 1e9),
        "hit_rate": hits / (hits + misses),
        "wait_ms_per_token": sum(step["wait_ns"] for step in steps) / 1e6 / len(steps),
        # What the single program computes too: all but attention, head and embedding.
        "layers_ms": median(
            [(s["total_ns"] - s["attention_ns"] - s["head_ns"]) / 1e6 for s in steps]
        ),
        "itl_ns": sample["itl_ns"],
    }


def measure(bundle: pathlib.Path, program: pathlib.Path, progress: ProgressBar) -> Json:
    """All raw measurements; rounds alternate between what is compared."""
    with Runner() as runner:
        runner.request(
            "open", bundle=str(bundle), settings={"cache": CACHE, "context": 64}, progress=progress
        )
        misses = runner.request("measure_misses", count=MISSES)
    rounds = []
    for _ in range(ROUNDS):
        one: Json = {
            "slots": decode(bundle, progress, cache=CACHE),
            "slots_serial": decode(bundle, progress, cache=CACHE, overlap=False),
            "programs": decode(bundle, progress, cache=CACHE, residency="programs"),
            "resident": decode(bundle, progress, residency="resident"),
        }
        with Runner() as runner:
            one["single"] = runner.request("time_program", path=str(program), iterations=NEW_TOKENS)
        rounds.append(one)
    return {"cpu": LocalDevice().facts().soc, "misses": misses, "rounds": rounds}


def summarize(raw: Json) -> Json:
    """The answers; every ratio is of medians taken in the same run."""
    misses = raw["misses"]

    def milliseconds(name: str) -> float:
        return median(misses[name]) / 1e6

    def of_rounds(kind: str, name: str) -> float:
        return median([one[kind][name] for one in raw["rounds"]])

    single_ms = median([median(one["single"]["samples_ns"]) / 1e6 for one in raw["rounds"]])
    resident_ms = of_rounds("resident", "layers_ms")
    serial, hidden = (of_rounds(kind, "wait_ms_per_token") for kind in ("slots_serial", "slots"))
    return {
        "a": {
            "raw_read_ms": milliseconds("raw_read_ns"),
            "slot_miss_ms": milliseconds("slot_miss_ns"),
            "ratio": milliseconds("slot_miss_ns") / milliseconds("raw_read_ns"),
        },
        "b": {
            "program_rest_ms": milliseconds("program_load_ns"),
            "slot_rest_ms": milliseconds("slot_rest_ns"),
            "ratio": milliseconds("program_load_ns") / milliseconds("slot_rest_ns"),
            "tokens_per_second": {
                kind: of_rounds(kind, "tokens_per_second") for kind in ("programs", "slots")
            },
            "hit_rate": of_rounds("slots", "hit_rate"),
            "routing": raw["rounds"][0]["slots"]["settings"]["routing"],
            "direct_io": all(
                one[kind]["direct_io"] for one in raw["rounds"] for kind in ("programs", "slots")
            ),
        },
        "c": {
            "single_program_ms": single_ms,
            "resident_ms": resident_ms,
            "ratio": single_ms / resident_ms,
            "threads": raw["rounds"][0]["resident"]["threads"],
        },
        "d": {
            "wait_ms_per_token_serial": serial,
            "wait_ms_per_token": hidden,
            "hidden": 1 - hidden / serial if serial else 0.0,
        },
    }


def report(answers: Json) -> str:
    a, b, c, d = (answers[name] for name in "abcd")
    rates = b["tokens_per_second"]
    return "\n".join(
        [
            f"(a) slot miss {a['slot_miss_ms']:.2f} ms, raw O_DIRECT read of the same bytes "
            f"{a['raw_read_ms']:.2f} ms: {a['ratio']:.2f}x (at most {MOST_MISS}x)",
            f"(b) the part of a miss that is not reading: program {b['program_rest_ms']:.2f} ms, "
            f"slot {b['slot_rest_ms']:.3f} ms: {b['ratio']:.0f}x (at least {LEAST_GAIN:.0f}x)",
            f"    decoding at a {CACHE} budget, {b['routing']} routing, hit rate "
            f"{b['hit_rate']:.0%}, O_DIRECT {'on' if b['direct_io'] else 'OFF'}: programs "
            f"{rates['programs']:.1f} tokens/s, slots {rates['slots']:.1f} tokens/s",
            f"(c) layers of one token: single program {c['single_program_ms']:.2f} ms, resident "
            f"engine {c['resident_ms']:.2f} ms, {c['threads']} threads: {c['ratio']:.2f} "
            f"(at least {LEAST_RESIDENT})",
            f"(d) waiting for flash per token: {d['wait_ms_per_token_serial']:.2f} ms if nothing "
            f"runs meanwhile, {d['wait_ms_per_token']:.2f} ms with hits first: "
            f"{d['hidden']:.0%} hidden",
        ]
    )


def missed(answers: Json) -> list[str]:
    """The questions whose answer breaks its limit, as letters."""
    kept = {
        "a": answers["a"]["ratio"] <= MOST_MISS,
        "b": answers["b"]["ratio"] >= LEAST_GAIN,
        "c": answers["c"]["ratio"] >= LEAST_RESIDENT,
    }
    return [letter for letter, is_kept in kept.items() if not is_kept]


def main() -> int:
    """Measures, prints the answers, and writes them with the raw data if asked.

    Returns 1 if a limit is missed.
    """
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.streaming",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--dir",
        type=pathlib.Path,
        default=pathlib.Path("build/bench"),
        help="where the bundle and the program are kept (3 GB)",
    )
    parser.add_argument("--json", type=pathlib.Path, help="write answers and raw data to this file")
    arguments = parser.parse_args()
    arguments.dir.mkdir(parents=True, exist_ok=True)
    try:
        with ProgressBar() as progress:
            bundle, program = prepare_inputs(arguments.dir, progress)
            raw = measure(bundle, program, progress)
    except MoeMobileError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    answers = summarize(raw)
    print(report(answers))
    if arguments.json is not None:
        text = json.dumps({"answers": answers, "raw": raw}, indent=1, sort_keys=True)
        arguments.json.write_text(text + "\n", encoding="utf-8")
    broken = missed(answers)
    if broken:
        print(f"missed: {', '.join(f'({letter})' for letter in broken)}", file=sys.stderr)
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
