# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""Exports a Mixtral checkpoint: a few large experts, everything in four bits.

python export_scripts/mixtral.py mistralai/Mixtral-8x7B-v0.1 out/mixtral
"""

from __future__ import annotations

import argparse

from tqdm import tqdm

from moe_mobile.export import Progress, export_bundle


def main() -> None:
    parser = argparse.ArgumentParser(description="Export a Mixtral checkpoint")
    parser.add_argument(
        "source", help="checkpoint folder, or a model id such as mistralai/Mixtral-8x7B-v0.1"
    )
    parser.add_argument("out", help="the bundle's folder")
    parser.add_argument("--quant", default="8da4w", choices=("fp32", "8da8w", "8da4w"))
    options = parser.parse_args()

    with tqdm(unit="program") as bar:

        def show(step: Progress) -> None:
            bar.total = step.total
            bar.set_postfix_str(step.what, refresh=False)
            bar.update(step.done - bar.n)

        # An expert of Mixtral-8x7B has 176 million weights: 88 MB in four bits.
        bundle = export_bundle(options.source, options.out, options.quant, progress=show)
    print(f"written: {bundle}")


if __name__ == "__main__":
    main()
