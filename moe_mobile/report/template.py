# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""What all pages are made of: templates, sections of charts, and JSON for the page's script."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Iterable
from typing import Any

import jinja2
import markupsafe

from moe_mobile.base.json_text import json_text
from moe_mobile.report.figure import Figure

_ASSETS = pathlib.Path(__file__).with_name("assets")


@dataclasses.dataclass(frozen=True)
class Chart:
    """A figure with its name and a note. One that is `folded` is drawn when it is opened."""

    name: str
    figure: Figure
    note: str = ""
    foldable: bool = False
    folded: bool = False


@dataclasses.dataclass(frozen=True)
class Section:
    """A heading with its charts. ``name`` is its anchor; ``absent`` says why it has none."""

    name: str
    title: str
    intro: str
    charts: list[Chart]
    absent: str = ""


def render(template: str, drawn: Iterable[Section], /, **values: Any) -> bytes:
    """A page that holds everything, as HTML in UTF-8. ``drawn``: sections with charts."""
    from plotly.offline import get_plotlyjs

    figures = {
        f"{section.name}-{index}": chart.figure.as_dict()
        for section in drawn
        for index, chart in enumerate(section.charts)
    }
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_ASSETS),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    page = environment.get_template(template).render(
        **values,
        style=markupsafe.Markup((_ASSETS / "style.css").read_text("utf-8")),
        script=markupsafe.Markup((_ASSETS / "script.js").read_text("utf-8")),
        plotly=markupsafe.Markup(get_plotlyjs()),
        figures=script_json(figures),
    )
    # JSON may hold half of a surrogate pair, which UTF-8 cannot encode.
    return page.encode("utf-8", "replace")


def script_json(value: object) -> markupsafe.Markup:
    """JSON inside a script element: nothing in it can end that."""
    text = json_text(value, compact=True)
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return markupsafe.Markup(text)
