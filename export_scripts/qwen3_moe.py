# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""Exports a Qwen3-MoE checkpoint, choosing the group size of its four-bit weights.

python export_scripts/qwen3_moe.py Qwen/Qwen3-30B-A3B out/qwen3-moe
"""

from __future__ import annotations

import argparse

from tqdm import tqdm

from moe_mobile.export import Progress, export_bundle


def main() -> None:
    parser = argparse.ArgumentParser(description="Export a Qwen3-MoE checkpoint")
    parser.add_argument(
        "source", help="checkpoint folder, or a model id such as Qwen/Qwen3-30B-A3B"
    )
    parser.add_argument("out", help="the bundle's folder")
    parser.add_argument("--quant", default="8da4w", choices=("fp32", "8da8w", "8da4w"))
    parser.add_argument("--group-size", type=int, default=32, choices=(32, 64, 128, 256))
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
            group_size=options.group_size,
            progress=show,
        )
    print(f"written: {bundle}")


if __name__ == "__main__":
    main()
