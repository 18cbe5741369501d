# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""Whether a phone computes what this machine computes: the same tokens are scored on both.

python -m benchmarks.agreement --device SERIAL --json agreement.json

The demo model is exported in the default quantization and in fp32, and the first tokens of its
held-out text are scored with all settings in SETTINGS. A virtual phone of arm64 will do:
`moe-mobile virtual-phone start --abi arm64-v8a`.
"""

from __future__ import annotations

import json
import pathlib
import sys
import tempfile
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray

from benchmarks.perplexity import heldout_tokens
from moe_mobile.base.text import table
from moe_mobile.bench.build import build, executorch_version
from moe_mobile.bundle.quantization import DEFAULT_QUANT
from moe_mobile.cli.errors import report
from moe_mobile.device.interface import Device
from moe_mobile.device.select import ANY, open_device
from moe_mobile.errors import MoeMobileError

QUANTS = (DEFAULT_QUANT, "fp32")
SETTINGS = (
    ("50%", "slots"), ("25%", "slots"), ("75%", "slots"), ("100%", "slots"), ("50%", "programs"),
    ("100%", "resident"),
)  # fmt: skip
"""Cache and residency; the first is what is compared between the machines."""


def score(place: Device, bundle: pathlib.Path, tokens: list[int]) -> list[NDArray[np.float64]]:
    """Log-probabilities (nats) of all tokens but the first, float64 [tokens - 1], with each of
    SETTINGS."""
    folder = place.place(bundle)
    found = []
    with place.runner() as runner:
        for cache, residency in SETTINGS:
            settings = {"cache": cache, "residency": residency}
            runner.request("open", bundle=folder, settings=settings)
            answer = runner.request("score", token_ids=tokens)
            found.append(np.array(answer["log_probabilities"]))
    return found


def compare(quant: str, device: Device, tokens: list[int]) -> dict[str, Any]:
    """One row of the record: what both computed, and for how many settings each gave other bits
    than for its first."""
    from moe_mobile.export import export_bundle

    with tempfile.TemporaryDirectory(prefix="moe-mobile-agreement-") as folder:
        bundle = export_bundle("demo", pathlib.Path(folder) / "demo", quant)
        scored = {name: score(place, bundle, tokens) for name, place in
                  (("here", open_device(None)), ("device", device))}  # fmt: skip
    return {
        "quantization": quant,
        "settings": [dict(zip(("cache", "residency"), one, strict=True)) for one in SETTINGS],
        "other_bits": {
            name: sum(not np.array_equal(one, every[0]) for one in every[1:])
            for name, every in scored.items()
        },
        "log_probabilities": {name: every[0].tolist() for name, every in scored.items()},
    }


def summary(row: dict[str, Any]) -> list[str]:
    """Cells of the page's table, from a row of the record."""
    here, there = (np.array(row["log_probabilities"][name]) for name in ("here", "device"))
    apart = np.abs(there - here)
    return [
        row["quantization"],
        str(len(here)),
        f"{apart.max():.2g}",
        f"{np.median(apart):.2g}",
        f"{-here.mean():.4f}",
        f"{-there.mean():.4f}",
        f"{sum(row['other_bits'].values())} of {2 * (len(row['settings']) - 1)}",
    ]


HEADER = ["demo model in", "tokens", "largest difference", "median", "mean nll here", "there",
          "settings with other bits"]  # fmt: skip


@click.command()
@click.option("-s", "--device", default=ANY, show_default=True, help="adb's serial.")
@click.option("--tokens", type=click.IntRange(min=2), default=256, show_default=True)
@click.option("--json", "json_path", type=click.Path(path_type=pathlib.Path), help="Keep all.")
def command(device: str, tokens: int, json_path: pathlib.Path | None) -> None:
    """Score the same tokens on this machine and on a phone."""
    place = open_device(device)
    ids = heldout_tokens(tokens)
    rows = []
    for quant in QUANTS:
        click.echo(f"exporting and scoring {quant}", err=True)
        rows.append(compare(quant, place, ids))
    click.echo(table(HEADER, [summary(row) for row in rows]))
    if json_path is not None:
        facts = {"here": open_device(None).facts(), "device": place.facts()}
        record = {
            "machines": {name: {"abi": one.abi, "soc": one.soc} for name, one in facts.items()},
            "build": build()[0],
            "executorch": executorch_version(),
            "rows": rows,
        }
        json_path.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    try:
        command()
    except MoeMobileError as error:
        sys.exit(report(error, as_json=False))
