# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""Perplexity of bundles, scored token by token as decoding does, and that of transformers.

``python -m benchmarks.perplexity`` exports the demo model in every quantization, and with one part
alone in four bits, and scores its whole held-out text; ``--json FILE`` keeps the figures,
``--tokens N`` takes only the first ones.
"""

from __future__ import annotations

import hashlib
import json
import math
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray

from moe_mobile.base.progress import Progress, silent
from moe_mobile.base.text import table
from moe_mobile.bench.build import build, executorch_version
from moe_mobile.bundle.quantization import WHOLE_QUANTS, QuantizationSettings
from moe_mobile.bundle.verify import inspect_bundle
from moe_mobile.demo import checkpoint_dir, heldout_text
from moe_mobile.device.local import LocalDevice
from moe_mobile.engine import Engine

WINDOW = 1024
"""Tokens per window: the demo model's context. Each window starts without a past."""
FORMATS = (
    *map(QuantizationSettings, WHOLE_QUANTS),
    QuantizationSettings("8da8w", dense="8da4w"),
    QuantizationSettings("8da8w", head="8da4w"),
)


@dataclass(frozen=True)
class Quality:
    """``nll`` is the mean negative log-likelihood in nats over ``scored`` tokens; ``bytes`` those
    of the bundle."""

    name: str
    nll: float
    scored: int
    hit_rate: float | None = None
    bytes: int | None = None

    @property
    def perplexity(self) -> float:
        return math.exp(self.nll)


def heldout_tokens(count: int | None = None) -> list[int]:
    """The demo model's held-out text as token ids, the first ``count`` of them."""
    from tokenizers import Tokenizer

    tokenizer: Any = Tokenizer.from_file(str(checkpoint_dir() / "tokenizer.json"))
    ids: list[int] = tokenizer.encode(heldout_text()).ids
    return ids[:count]


def windows(ids: Sequence[int], length: int = WINDOW) -> list[list[int]]:
    """Consecutive windows of at most ``length`` tokens, all that hold a token to predict."""
    parts = [list(ids[at : at + length]) for at in range(0, len(ids), length)]
    return [part for part in parts if len(part) > 1]


def engine_quality(
    bundle: Path,
    parts: Sequence[Sequence[int]],
    *,
    cache: str = "50%",
    threads: int | None = None,
    progress: Progress = silent,
) -> Quality:
    """Scores every token but the first of each window with a bundle's experts streaming."""
    total, hits, uses, scored = 0.0, 0, 0, 0
    with Engine(bundle, cache, threads=threads) as engine:
        quant = engine.info.model.quantization.name
        for index, part in enumerate(parts):
            values: NDArray[np.float32] = engine.nll(part)
            total += float(values.sum(dtype=np.float64))
            scored += len(values)
            totals = engine.stats.totals
            hits += totals.hits
            uses += totals.hits + totals.misses
            progress("score", index + 1, len(parts))
    hit_rate = hits / uses if uses else None
    return Quality(quant, total / scored, scored, hit_rate, inspect_bundle(bundle)["bytes"])


def transformers_quality(checkpoint: Path, parts: Sequence[Sequence[int]]) -> Quality:
    """The same by transformers, float32 and eager attention, a window at a time."""
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(
        checkpoint, dtype=torch.float32, attn_implementation="eager"
    ).eval()
    total, scored = 0.0, 0
    with torch.no_grad():
        for part in parts:
            ids = torch.tensor([list(part)])
            logits = model(ids, use_cache=False).logits[0, :-1].double()
            picked = logits.gather(1, ids[0, 1:, None])[:, 0]
            total += float((logits.logsumexp(1) - picked).sum())
            scored += len(part) - 1
    return Quality("transformers fp32", total / scored, scored)


@click.command()
@click.option("--tokens", type=click.IntRange(min=2), help="Only the first tokens; default: all.")
@click.option("--cache", default="50%", show_default=True, help="Memory for experts.")
@click.option("--threads", type=click.IntRange(min=1), help="Threads; default: one per core.")
@click.option("--json", "json_path", type=click.Path(path_type=Path), help="Write the figures.")
def main(tokens: int | None, cache: str, threads: int | None, json_path: Path | None) -> None:
    """Perplexity of the demo model's bundles on its held-out text.

    \b
    python -m benchmarks.perplexity
    python -m benchmarks.perplexity --tokens 4096 --json quality.json
    """
    from moe_mobile.export import export_bundle

    parts = windows(heldout_tokens(tokens))
    results = [transformers_quality(checkpoint_dir(), parts)]
    with tempfile.TemporaryDirectory(prefix="moe-mobile-quality-") as folder:
        for number, formats in enumerate(FORMATS):
            click.echo(f"exporting and scoring {number + 1} of {len(FORMATS)}", err=True)
            bundle = export_bundle("demo", Path(folder) / str(number), formats)
            results.append(engine_quality(bundle, parts, cache=cache, threads=threads))
    reference = results[0].perplexity
    rows = [
        [
            result.name,
            f"{result.perplexity:.4f}",
            f"{100 * (result.perplexity / reference - 1):+.4f} %",
            "-" if result.hit_rate is None else f"{100 * result.hit_rate:.1f} %",
            "-" if result.bytes is None else f"{result.bytes / 1e6:.2f}",
        ]
        for result in results
    ]
    click.echo(table(["bundle", "perplexity", "change", "hits", "MB"], rows))
    click.echo(f"{results[0].scored} tokens in {len(parts)} windows of up to {WINDOW}")
    if json_path is not None:
        json_path.write_text(json.dumps(_record(results, cache), indent=2) + "\n")


def _record(results: Sequence[Quality], cache: str) -> dict[str, Any]:
    weights = (checkpoint_dir() / "model.safetensors").read_bytes()
    return {
        "checkpoint_sha256": hashlib.sha256(weights).hexdigest(),
        "heldout_sha256": hashlib.sha256(heldout_text().encode()).hexdigest(),
        "window": WINDOW,
        "cache": cache,
        "cpu": LocalDevice().facts().soc,
        "build": build()[0],
        "executorch": executorch_version(),
        "results": [{**asdict(result), "perplexity": result.perplexity} for result in results],
    }


if __name__ == "__main__":
    main()
