# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""The command line, `moe-mobile`: one module per command, imported when the command is used."""

from __future__ import annotations

from moe_mobile.cli.group import CommandGroup

__all__ = ["cli", "main"]

cli = CommandGroup(
    name="moe-mobile",
    help="Run Mixture-of-Experts language models that do not fit in memory: export them into "
    "bundles of ExecuTorch programs, one per expert, and stream those from flash.",
    epilog="""\b
First steps:
  moe-mobile demo                          see it work, in a few minutes
  moe-mobile export ./OLMoE-1B-7B olmoe    a Hugging Face folder becomes a bundle
  moe-mobile generate olmoe -p "Once"      run it with half of its experts in memory
  moe-mobile deploy olmoe                  send it to the phone; --device runs things there

\b
Exit codes:
  0 done          4 bundle breaks the format    8 not writable
  1 defect of     5 bytes do not match a hash   9 memory budget too small
    moe-mobile    6 reading or writing failed  10 ExecuTorch failed
  2 usage         7 disk full                  11 source checkpoint broken
  3 unsupported  12 no usable device           13 engine killed, mostly for memory
                                              130 cancelled""",
    commands={
        "export": "Turn a checkpoint into a bundle.",
        "inspect": "Show what a bundle is and what it needs.",
        "verify": "Check every byte of a bundle against its hash.",
        "prepare": "Pack a bundle's weights for this machine's CPU.",
        "info": "Open a bundle and show its memory plan and settings.",
        "generate": "Generate text, streaming experts from disk.",
        "bench": "Measure speed, latency, cache and memory.",
        "trace": "Record the router logits of a text, for replays.",
        "simulate": "Replay traces: what each routing and cache size would read.",
        "quality": "Score a text under routings: the quality they cost, the reads they save.",
        "tune": "Find the routing that reads least within a quality limit.",
        "report": "Make one page of what bench wrote.",
        "devices": "List phones, and whether a bundle fits on them.",
        "deploy": "Send a bundle to phones: only what is missing there.",
        "virtual-phone": "Start and stop virtual phones, for tests and CI.",
        "runtime": "Build the engine for phones.",
        "models": "List supported families and random-weight presets.",
        "doctor": "Check that this machine can export and run bundles.",
        "demo": "Export, prepare and stream the demo model; show what slots gain.",
    },
)


def main() -> None:
    """Entry point of the `moe-mobile` program."""
    cli.main(prog_name="moe-mobile")
