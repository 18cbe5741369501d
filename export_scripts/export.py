# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""Exports a checkpoint of any supported family. What to choose depends on the model:

experts in four bits, everything that runs for every token in eight (the default):
    python export_scripts/export.py mistralai/Mixtral-8x7B-v0.1 out/mixtral
everything in four bits: smaller, and worse (docs/cli.md, "Which quantization"):
    python export_scripts/export.py Qwen/Qwen1.5-MoE-A2.7B out/qwen1.5-moe --quant 8da4w
larger groups of weights that share a scale, for a smaller bundle:
    python export_scripts/export.py Qwen/Qwen3-30B-A3B out/qwen3-moe --group-size 64
everything in eight bits, and a prompt in smaller batches, which takes less memory:
    python export_scripts/export.py allenai/OLMoE-1B-7B-0924 out/olmoe \\
        --quant 8da8w --max-batch 64
"""

from __future__ import annotations

import argparse

from tqdm import tqdm

from moe_mobile import QuantizationSettings, export_bundle
from moe_mobile.bundle.quantization import DEFAULT_QUANT, GROUP_SIZES, QUANTS, WHOLE_QUANTS


def main() -> None:
    parser = argparse.ArgumentParser(description="Export a Mixture-of-Experts checkpoint")
    parser.add_argument("source", help="checkpoint folder, or a model id such as org/name")
    parser.add_argument("out", help="the bundle's folder")
    parser.add_argument(
        "--quant", default=DEFAULT_QUANT, choices=WHOLE_QUANTS, help="format of the weights"
    )
    parser.add_argument("--dense", choices=QUANTS, help="another format of all but the experts")
    parser.add_argument("--group-size", type=int, choices=GROUP_SIZES)
    parser.add_argument("--max-batch", type=int, help="prompt tokens per program call")
    options = parser.parse_args()

    with tqdm(unit="program") as bar:

        def show(stage: str, done: int, total: int, detail: str = "") -> None:
            bar.total = total
            bar.set_postfix_str(detail, refresh=False)
            bar.update(done - bar.n)

        bundle = export_bundle(
            options.source,
            options.out,
            QuantizationSettings(
                options.quant,
                dense=options.dense,
                head=options.dense,
                group_size=options.group_size,
            ),
            max_batch=options.max_batch,
            progress=show,
        )
    print(f"written: {bundle}")


if __name__ == "__main__":
    main()
