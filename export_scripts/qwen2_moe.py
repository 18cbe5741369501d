# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""Exports a Qwen2-MoE or Qwen1.5-MoE checkpoint: experts in four bits, the rest in eight.

The shared expert runs for every token, so it belongs to the dense part.

    python export_scripts/qwen2_moe.py Qwen/Qwen1.5-MoE-A2.7B out/qwen1.5-moe
"""

from __future__ import annotations

import argparse

from tqdm import tqdm

from moe_mobile.export import Progress, export_bundle


def main() -> None:
    parser = argparse.ArgumentParser(description="Export a Qwen2-MoE checkpoint")
    parser.add_argument(
        "source", help="checkpoint folder, or a model id such as Qwen/Qwen1.5-MoE-A2.7B"
    )
    parser.add_argument("out", help="the bundle's folder")
    parser.add_argument("--experts", default="8da4w", choices=("fp32", "8da8w", "8da4w"))
    parser.add_argument("--dense", default="8da8w", choices=("fp32", "8da8w", "8da4w"))
    options = parser.parse_args()

    with tqdm(unit="program") as bar:

        def show(step: Progress) -> None:
            bar.total = step.total
            bar.set_postfix_str(step.what, refresh=False)
            bar.update(step.done - bar.n)

        bundle = export_bundle(
            options.source,
            options.out,
            options.experts,
            dense=options.dense,
            head=options.dense,
            progress=show,
        )
    print(f"written: {bundle}")


if __name__ == "__main__":
    main()
