# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""JSON as the package writes it."""

from __future__ import annotations

import ast
import json
import math
from collections import Counter
from pathlib import Path

import pytest

import moe_mobile
from moe_mobile.base.json_text import json_text


@pytest.mark.parametrize("value", [math.nan, math.inf, [{"a": -math.inf}]])
def test_what_is_not_json_is_not_written(value: object) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        json_text(value)


def test_layouts() -> None:
    value = {"b": [1.5, None], "a": "\u00e9"}
    assert json_text(value) == json.dumps(value)
    assert json_text(value, compact=True, ascii=False) == '{"b":[1.5,null],"a":"\u00e9"}'
    assert json_text(value, indent=1, sort_keys=True) == json.dumps(value, indent=1, sort_keys=True)
    assert json_text({1}, default=list) == "[1]"


def test_all_json_is_written_by_one_function() -> None:
    """Others show, compare or copy what they were given, or let a model's template write it."""
    root = Path(moe_mobile.__file__).parent
    found = Counter(
        str(path.relative_to(root))
        for path in root.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.Attribute) and ast.unparse(node) in ("json.dumps", "json.dump")
    )
    assert found == {
        "base/json_text.py": 1,
        "bench/store.py": 1,
        "model/added_tokens.py": 1,
        "model/class_tokens.py": 1,
        "model/families/common.py": 1,
        "report/load.py": 1,
        "text/sandbox.py": 1,
    }
