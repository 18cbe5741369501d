# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""``python -m moe_mobile.cli.synthetic``: write a trace of a model that nobody ran."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from moe_mobile.cli.errors import report
from moe_mobile.cli.writable import check_replaceable
from moe_mobile.errors import MoeMobileError, UsageError
from moe_mobile.routing.synthetic import MODELS, synthetic_trace
from moe_mobile.routing.trace import MAX_SEQUENCES, write_trace

__all__ = ["main"]


def main() -> int:
    """Write a trace. Returns the exit code: 0, or that of the error it printed."""
    parser = argparse.ArgumentParser(
        prog="python -m moe_mobile.cli.synthetic",
        description="Write a trace of router logits that are random, but last as those of the "
        "model were published to do.",
    )
    parser.add_argument("model", choices=list(MODELS))
    parser.add_argument(
        "-o", "--out", type=Path, required=True, help="the trace; an existing file is replaced"
    )
    parser.add_argument("--layers", type=int, help="only so many of the model's")
    parser.add_argument("--tokens", type=int, default=1024, help="of each sequence")
    parser.add_argument("--sequences", type=int, default=1)
    parser.add_argument("--prompt-tokens", type=int, default=0, help="so many of them are a prompt")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    model = MODELS[arguments.model]
    try:
        check_replaceable(arguments.out)
        if arguments.sequences > MAX_SEQUENCES:
            raise UsageError(
                f"{arguments.sequences} are more than a trace has",
                setting="--sequences",
                remedy=f"Give {MAX_SEQUENCES} or fewer",
            )
        trace = synthetic_trace(
            model,
            [arguments.tokens] * arguments.sequences,
            prompt_tokens=arguments.prompt_tokens,
            layers=arguments.layers,
            seed=arguments.seed,
        )
        size = write_trace(arguments.out, trace)
        print(f"{arguments.out}: {trace.source_id}, {size / 2**20:.1f} MiB")
    except MoeMobileError as error:
        return report(error, as_json=False)
    return 0


if __name__ == "__main__":
    sys.exit(main())
