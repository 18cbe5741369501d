# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""Exports an OLMoE checkpoint, in eight bits per weight by default.

python export_scripts/olmoe.py allenai/OLMoE-1B-7B-0924 out/olmoe
"""

from __future__ import annotations

import argparse

from tqdm import tqdm

from moe_mobile.export import Progress, export_bundle


def main() -> None:
    parser = argparse.ArgumentParser(description="Export an OLMoE checkpoint")
    parser.add_argument(
        "source", help="checkpoint folder, or a model id such as allenai/OLMoE-1B-7B-0924"
    )
    parser.add_argument("out", help="the bundle's folder")
    parser.add_argument("--quant", default="8da8w", choices=("fp32", "8da8w", "8da4w"))
    parser.add_argument("--max-batch", type=int, default=256, help="prompt tokens per program call")
    options = parser.parse_args()

    with tqdm(unit="program") as bar:

        def show(step: Progress) -> None:
            bar.total = step.total
            bar.set_postfix_str(step.what, refresh=False)
            bar.update(step.done - bar.n)

        bundle = export_bundle(
            options.source,
            options.out,
            options.quant,
            max_batch=options.max_batch,
            progress=show,
        )
    print(f"written: {bundle}")


if __name__ == "__main__":
    main()
