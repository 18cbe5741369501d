# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""``python -m moe_mobile.cli.synthetic``: write a trace of a model that nobody ran."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from moe_mobile.cli.commands import cli_command
from moe_mobile.cli.errors import report
from moe_mobile.cli.types import PATH, Choice
from moe_mobile.cli.writable import check_writable
from moe_mobile.errors import MoeMobileError, UsageError
from moe_mobile.routing.synthetic import MODELS, synthetic_trace
from moe_mobile.routing.trace import MAX_SEQUENCES, write_trace


@cli_command("python -m moe_mobile.cli.synthetic Qwen3-30B-A3B -o qwen3.safetensors")
@click.argument("model", type=Choice(list(MODELS)))
@click.option(
    "-o",
    "--out",
    type=PATH,
    required=True,
    help="The trace; an existing file is replaced.",
)
@click.option("--layers", type=int, help="Only so many of the model's.")
@click.option("--tokens", type=int, default=1024, help="Of each sequence.")
@click.option("--sequences", type=int, default=1, help="How many.")
@click.option("--prompt-tokens", type=int, default=0, help="So many of them are a prompt.")
@click.option("--seed", type=int, default=0, help="Of the random numbers.")
def command(
    model: str,
    out: Path,
    layers: int | None,
    tokens: int,
    sequences: int,
    prompt_tokens: int,
    seed: int,
) -> None:
    """Write a trace of router logits that are random, but last as those of the model were published
    to do."""
    check_writable(out, replaced=True)
    if sequences > MAX_SEQUENCES:
        raise UsageError(
            f"{sequences} are more than a trace has",
            setting="sequences",
            remedy=f"Give {MAX_SEQUENCES} or fewer",
        )
    trace = synthetic_trace(
        MODELS[model],
        [tokens] * sequences,
        prompt_tokens=prompt_tokens,
        layers=layers,
        seed=seed,
    )
    size = write_trace(out, trace)
    click.echo(f"{out}: {trace.source_id}, {size / 2**20:.1f} MiB")


def main() -> int:
    """Write a trace. Returns the exit code: 0, or that of the error it printed."""
    try:
        command.main(prog_name="python -m moe_mobile.cli.synthetic", standalone_mode=False)
    except MoeMobileError as error:
        return report(error, as_json=False)
    except click.ClickException as error:
        error.show()
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
