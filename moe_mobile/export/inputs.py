# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""All that an export's files follow from: a later run continues it only with the same."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any

from moe_mobile.base.json_field import Json
from moe_mobile.base.json_text import json_text

_BEGUN = "begun"
_NAMES = ("source", "name")


@dataclass(frozen=True)
class Inputs:
    """What an export is made of.

    Attributes:
        description: changes when the checkpoint's files do, but for its weights.
        weights: changes when the weights do, as far as that is seen without reading all of them;
            None as long as they have not been fetched.
        written: changes when a file of the weights is written. Only if it does are they compared
            with what an earlier run recorded of them.
        options: what is asked for.
        versions: of what makes the programs.
        source: what the checkpoint is called.
        name: what the model is called. Only the manifest, which is made last, has these two.
    """

    description: str
    weights: str | None
    options: Json
    versions: dict[str, str]
    written: str = ""
    source: str = ""
    name: str = ""

    def line(self) -> Json:
        """The first line of the journal."""
        values = {name: value for name, value in asdict(self).items() if name != "written"}
        line: Json = json.loads(json_text({_BEGUN: values}))
        return line

    def difference(self, line: Json) -> str | None:
        """What an export whose journal begins with ``line`` is of; None if this one may continue
        it."""
        begun = line.get(_BEGUN)
        ours = self.line()[_BEGUN]
        if not isinstance(begun, dict) or begun.keys() != ours.keys():
            return "of another version, or with a damaged journal,"
        differ = {name for name in ours if begun[name] != ours[name]} - {*_NAMES}
        if self.weights is None:
            differ.discard("weights")
        if differ & {"description", "weights"}:
            return f"of another checkpoint, or of one that has changed since ({begun['source']})"
        if "options" in differ:
            return f"with other options ({_changes(begun['options'], ours['options'])})"
        if "versions" in differ:
            return f"by other versions ({_changes(begun['versions'], ours['versions'])})"
        return None


def _changes(before: Any, now: Json) -> str:
    """Members that were others: what they were, and what they are."""
    if not isinstance(before, dict):
        return "it does not say which"
    names = [name for name in now if before.get(name) != now[name]]
    return ", ".join(
        f"{name} {_shown(before.get(name))} instead of {_shown(now[name])}" for name in names
    )


def _shown(value: Any) -> str:
    if isinstance(value, list):
        return "+".join(map(str, value)) or "none"
    return str(value)
