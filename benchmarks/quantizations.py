# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""Bytes and speed of two quantizations on real dimensions: ``python -m benchmarks.quantizations``.

Bytes are computed of each preset's configuration, all layers, without making a model. Speed is
measured on some layers with random weights and the whole vocabulary. The time of a token of the
whole model is that of its layers, times as many as the model has, and that of the head. All
decodes have the same tokens, and of each token the fastest time counts, since other work only makes
it slower. Both quantizations take turns in one run (first, second, second, first), so compare the
ratios: a shared machine's speed drifts.
"""

from __future__ import annotations

import argparse
import json
import math
import pathlib
import statistics
import sys
from dataclasses import asdict, dataclass

from moe_mobile.base.json_field import Json
from moe_mobile.base.text import table
from moe_mobile.bundle.quantization import DEFAULT_QUANT, Quant, embedding_row_bytes
from moe_mobile.cli.progress import ProgressBar
from moe_mobile.device.local import LocalDevice
from moe_mobile.errors import MoeMobileError
from moe_mobile.export import RandomWeights, export_bundle
from moe_mobile.export.options import resolve_options
from moe_mobile.export.plan import make_plan
from moe_mobile.export.shapes import Parameter, ProgramShape
from moe_mobile.model.presets import PRESETS
from moe_mobile.model.source import SourceLike, open_model
from moe_mobile.runner import Runner

COMPARED = (DEFAULT_QUANT, Quant.INT4.value)
SHAPES = ("OLMoE-1B-7B", "Qwen1.5-MoE-A2.7B", "Qwen3-30B-A3B", "Mixtral-8x7B")
"""Of these all layers are alike, so that a few stand for all."""
MEMORY: dict[str, Json] = {"resident": {"residency": "resident"}, "50 %": {"cache": "50%"}}
NEW_TOKENS = 48


@dataclass(frozen=True)
class Size:
    """Bytes of a model's weights. ``dense`` and ``head`` are always in memory; a token uses these
    and ``token_experts`` of ``experts``."""

    experts: int
    dense: int
    head: int
    embedding: int
    token_experts: int

    @property
    def whole(self) -> int:
        return self.experts + self.dense + self.head + self.embedding

    @property
    def token(self) -> int:
        return self.dense + self.head + self.token_experts


def encoded_bytes(parameter: Parameter) -> int:
    """Bytes of a weight's constants in its program: values and scales."""
    values = math.prod(parameter.dims)
    encoding = parameter.encoding
    if encoding.quant is Quant.FP32:
        return 4 * values
    if encoding.quant is Quant.INT8:
        return values + 4 * parameter.dims[0]
    return values // 2 + 2 * (values // encoding.group_size)


def model_size(source: SourceLike, quant: str) -> Size:
    """Bytes of all weights of a model, from its configuration alone."""
    architecture = open_model(source).architecture
    options = resolve_options(quant)
    plan = make_plan(architecture, options)

    def program(shape: ProgramShape) -> int:
        return sum(encoded_bytes(parameter) for parameter in shape.parameters())

    layers = {shape: program(shape) for shape in dict.fromkeys(plan.layers)}
    expert, moe = program(plan.experts[0]), architecture.moe
    moe_layers = sum(layer.is_moe for layer in architecture.layers)
    return Size(
        experts=moe_layers * moe.num_experts * expert,
        dense=sum(layers[shape] for shape in plan.layers),
        head=program(plan.head),
        embedding=architecture.vocab_size
        * embedding_row_bytes(options.embedding, architecture.hidden_size),
        token_experts=moe_layers * moe.top_k * expert,
    )


def make_bundle(folder: pathlib.Path, shape: str, layers: int, quant: str) -> pathlib.Path:
    """A bundle with random weights, made and prepared once."""
    source = RandomWeights(shape, layers=layers)
    bundle = folder / f"{shape}-{layers}-{quant}-{open_model(source).fingerprint()[:8]}"
    with ProgressBar() as progress:
        if not bundle.exists():
            export_bundle(source, bundle, quant, progress=progress)
        with Runner() as runner:
            runner.request("prepare", bundle=str(bundle), progress=progress)
    return bundle


def decode(bundle: pathlib.Path, settings: Json) -> Json:
    """Decodes random tokens in a fresh process; milliseconds of each token."""
    with Runner() as runner:
        info = runner.request(
            "open", bundle=str(bundle), settings={"context": 2 * NEW_TOKENS, **settings}
        )
        answer = runner.request("bench", n_prompt=8, n_gen=NEW_TOKENS, repetitions=1)
    (sample,) = answer["samples"]
    steps = [step for step in sample["tokens"] if step["phase"] == "decode"]
    uses = sum(step["hits"] + step["misses"] for step in steps)
    return {
        "layers_ms": [(step["total_ns"] - step["head_ns"]) / 1e6 for step in steps],
        "head_ms": [step["head_ns"] / 1e6 for step in steps],
        "hit_rate": sum(step["hits"] for step in steps) / uses,
        "threads": info["settings"]["threads"],
        "direct_io": info["direct_io"],
        "bundle_hash": info["bundle_hash"],
    }


def measure(
    bundles: dict[str, pathlib.Path], settings: Json, *, layers: int, whole: int, rounds: int
) -> Json:
    """All decodes, what a token of the whole model takes by each, and the ratio of the speeds:
    above 1, the first of ``COMPARED`` is faster."""
    first, second = COMPARED
    found: dict[str, list[Json]] = {first: [], second: []}
    for _ in range(rounds):
        for quant in (first, second, second, first):
            found[quant].append(decode(bundles[quant], settings))
    return {**summarize(found, whole / layers), "decodes": found}


def summarize(found: dict[str, list[Json]], scale: float) -> Json:
    """The times and their ratio, and the ratios with each round left out as its spread.

    ``scale``: layers of the model by layers that were measured.
    """
    first, second = COMPARED
    times = {quant: token_ms(decodes, scale) for quant, decodes in found.items()}
    spread = []
    for at in range(0, len(found[first]), 2):
        others = {quant: decodes[:at] + decodes[at + 2 :] for quant, decodes in found.items()}
        slow, fast = (token_ms(others[quant], scale) for quant in (second, first))
        spread.append(slow / fast)
    return {"ratio": times[second] / times[first], "ratios": spread, "token_ms": times}


def token_ms(decodes: list[Json], scale: float) -> float:
    """Of a token of the whole model: the mean over tokens of each one's fastest decode."""

    def fastest(part: str) -> float:
        by_token = zip(*(one[part] for one in decodes), strict=True)
        return statistics.mean(float(min(times)) for times in by_token)

    return fastest("layers_ms") * scale + fastest("head_ms")


def main() -> int:
    """Computes bytes, measures speed, prints both and writes them if asked."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.quantizations",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--dir", type=pathlib.Path, default=pathlib.Path("build/quantizations"))
    parser.add_argument("--layers", type=int, default=2, help="of each shape whose speed is taken")
    parser.add_argument("--rounds", type=int, default=5, help="at least 2")
    parser.add_argument("--shapes", default=",".join(SHAPES), help="whose speed is taken")
    parser.add_argument("--json", type=pathlib.Path, help="write all measurements to this file")
    arguments = parser.parse_args()
    sizes = {
        name: {quant: model_size(RandomWeights(name), quant) for quant in COMPARED}
        for name in PRESETS
    }
    print(_size_table(sizes), flush=True)
    results: Json = {
        "cpu": LocalDevice().facts().soc,
        "layers": arguments.layers,
        "bytes": {
            name: {quant: asdict(size) for quant, size in of_quant.items()}
            for name, of_quant in sizes.items()
        },
        "speed": {},
    }
    arguments.dir.mkdir(parents=True, exist_ok=True)
    try:
        for shape in filter(None, arguments.shapes.split(",")):
            bundles = {
                quant: make_bundle(arguments.dir, shape, arguments.layers, quant)
                for quant in COMPARED
            }
            whole = len(open_model(RandomWeights(shape)).architecture.layers)
            for memory, settings in MEMORY.items():
                one = measure(
                    bundles, settings, layers=arguments.layers, whole=whole, rounds=arguments.rounds
                )
                results["speed"][f"{shape}, {memory}"] = one
                print(_speed_line(f"{shape}, {memory}", one), flush=True)
                if arguments.json is not None:
                    arguments.json.write_text(json.dumps(results, indent=1) + "\n")
    except MoeMobileError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(results, indent=1) + "\n")
    return 0


def _size_table(sizes: dict[str, dict[str, Size]]) -> str:
    rows = []
    for name, of_quant in sizes.items():
        least = of_quant[COMPARED[1]]
        for quant, size in of_quant.items():
            parts = (size.whole, size.dense + size.head, size.token)
            reference = (least.whole, least.dense + least.head, least.token)
            rows.append(
                [name, quant, f"{size.experts / 1e9:.2f}"]
                + [f"{part / 1e9:.2f}" for part in parts]
                + [f"{part / one:.2f}x" for part, one in zip(parts, reference, strict=True)]
            )
    header = ["GB", "quantization", "experts", "whole", "always in memory", "used by a token"]
    return table([*header, "whole", "always", "token"], rows)


def _speed_line(name: str, one: Json) -> str:
    times = ", ".join(f"{quant} {time:.1f} ms" for quant, time in one["token_ms"].items())
    spread = f"{min(one['ratios']):.2f} to {max(one['ratios']):.2f}"
    return f"{name}: a token of the whole model {times}; speed {one['ratio']:.2f}x ({spread})"


if __name__ == "__main__":
    sys.exit(main())
