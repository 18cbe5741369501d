# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""What `simulate` says to people, and to spreadsheets."""

from __future__ import annotations

import csv
import io
from typing import TYPE_CHECKING, Any

from moe_mobile.base.text import percent, size, table

if TYPE_CHECKING:
    from moe_mobile.routing.flash import Flash
    from moe_mobile.routing.replay import Replay

__all__ = ["csv_bytes", "describe", "notes"]

_BY_FLASH = ("flash_ms_per_token", "expert_ms_per_token")


def notes(found: Replay) -> list[str]:
    """What to know of the rows, beside them."""
    model = found.model
    layers = len(model.layers)
    said = list(dict.fromkeys(row.note for row in found.rows if row.note))
    if layers > 1:
        cycle, never, every = model.token_cycle, model.never_hits, layers * model.experts
        said.append(
            f"the LRU cliff: one token uses {cycle} of {every} experts ({percent(cycle / every)}). "
            f"A global LRU of up to {never} ({percent(never / every)}) never hits with exact "
            f"routing, for each token's other layers use {never} between two uses of a layer; "
            f"below {cycle} it can hit a token's best experts only. Such caches are refused here."
        )
    return said


def _routing(row: dict[str, Any]) -> str:
    """Its name, and what was asked for where that came out as exact routing."""
    routing, asked = str(row["routing"]), str(row["requested"])
    return f"{routing} ({asked})" if routing == "exact" != asked else routing


def describe(found: Replay, rows: list[dict[str, Any]], chips: tuple[Flash, ...]) -> str:
    """A table of the rows, with predicted times where there are chips."""
    model = found.model
    several = "s" if found.sequences > 1 else ""
    header = ["routing", "lossy", "eviction", "per layer", "hits", "loads/token-layer"]
    header += ["changed", "lifetime"]
    drops = any(row["dropped"] for row in rows)
    if drops:
        header.insert(header.index("lifetime"), "dropped")
    if chips:
        header += ["per token", *(f"ms {chip.name}" for chip in chips)]
    cells = []
    for row in rows:
        lifetime = row["mean_lifetime_tokens"]
        cells.append(
            [
                _routing(row),
                "lossy" if row["lossy"] else "",
                row["eviction"],
                f"{row['capacity']} ({100 * row['capacity_share']:.0f} %)",
                percent(row["hit_rate"]),
                f"{row['loads_per_token_layer']:.3f}",
                percent(row["changed_share"]),
                *([percent(row["dropped"] / (row["hits"] + row["misses"]))] * drops),
                "-" if lifetime is None else f"{lifetime:.1f}",
            ]
        )
        if chips:
            waits = row["expert_ms_per_token"].values()
            cells[-1] += [size(round(row["bytes_per_token"])), *(f"{ms:.3f}" for ms in waits)]
    tokens = f"{found.tokens} tokens"
    if found.prompt_tokens:
        tokens += f", {found.prompt_tokens} of them prompts,"
    return (
        f"{model.name}: {len(model.layers)} MoE layers, the best {model.top_k} of {model.experts} "
        f"experts; {tokens} in {found.sequences} sequence{several}; initial cache: "
        f"{rows[0]['initial_cache']}; pool: {rows[0]['pool']}\n\n{table(header, cells, left=3)}\n"
    )


def csv_bytes(rows: list[dict[str, Any]]) -> bytes:
    """The rows for a spreadsheet, a column for each flash."""
    flat = []
    for row in rows:
        values = {}
        for name, value in row.items():
            columns = (
                {f"{name} {chip}": ms for chip, ms in value.items()} if name in _BY_FLASH else {}
            )
            values.update(columns or {name: value})
        flat.append(values)
    text = io.StringIO()
    writer = csv.DictWriter(text, list(flat[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(flat)
    return text.getvalue().encode()
