# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""`moe-mobile models`."""

from __future__ import annotations

import click

from moe_mobile.cli.commands import cli_command
from moe_mobile.cli.options import echo_json, json_option


@cli_command(
    "moe-mobile models",
    "moe-mobile models --json",
    "moe-mobile export --random-weights OLMoE-1B-7B --layers 4 olmoe-random",
)
@json_option
def command(as_json: bool) -> None:
    """List the model families that can be exported, and the presets of --random-weights."""
    from moe_mobile.model.presets import PRESETS
    from moe_mobile.model.registry import FAMILIES

    if as_json:
        echo_json(
            {
                "families": [
                    {
                        "model_type": name,
                        "title": family.title,
                        "models": list(family.models),
                        "notes": family.notes,
                    }
                    for name, family in FAMILIES.items()
                ],
                "presets": [
                    {
                        "name": preset.name,
                        "description": preset.description,
                        "model_type": preset.config["model_type"],
                        "layers": preset.config["num_hidden_layers"],
                    }
                    for preset in PRESETS.values()
                ],
            }
        )
        return
    click.echo("Families (model_type in config.json):")
    _definitions(
        [
            (name, f"{family.title}: {', '.join(family.models)}; {family.notes}")
            for name, family in FAMILIES.items()
        ]
    )
    click.echo("\nPresets of --random-weights (real dimensions, random weights):")
    _definitions([(preset.name, preset.description) for preset in PRESETS.values()])


def _definitions(rows: list[tuple[str, str]]) -> None:
    formatter = click.HelpFormatter(width=100)
    with formatter.indentation():
        formatter.write_dl(rows)
    click.echo(formatter.getvalue(), nl=False)
