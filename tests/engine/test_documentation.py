# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""The examples of docs/python.md and of the package's docstring, and the example script, run."""

from __future__ import annotations

import doctest
import io
import re
import runpy
import sys
from pathlib import Path
from typing import Any

import pytest

import moe_mobile
from tests.bundles import DemoMaker

ROOT = Path(__file__).resolve().parents[2]
EXPORT = 'export_bundle("demo", "demo")'


def test_the_page_runs(chat_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = (ROOT / "docs" / "python.md").read_text()
    blocks = re.findall(r"^```python\n(.*?)^```$", page, re.DOTALL | re.MULTILINE)
    assert len(blocks) > 6
    assert EXPORT in blocks[0]
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my-chat-model").symlink_to(chat_bundle)
    names: dict[str, Any] = {}
    for block in blocks:
        exec(compile(block, "python.md", "exec"), names)
    assert names["result"].text
    assert names["answer"]
    assert names["logits"].shape == (4, 4096)
    assert names["surprise"].shape == (3,)


def test_every_public_name_is_there_and_on_the_page() -> None:
    page = (ROOT / "docs" / "python.md").read_text()
    for name in moe_mobile.__all__:
        assert getattr(moe_mobile, name) is not None
        assert name in dir(moe_mobile)
        if name not in ("__version__", "Info", "Stats"):
            assert name in page, name
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        moe_mobile.nothing  # noqa: B018


def test_the_docstrings_example_runs(
    demo_bundle: DemoMaker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its export is the page's; here the bundle is there already."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "demo").symlink_to(demo_bundle())
    source = (moe_mobile.__doc__ or "").replace(EXPORT, '"demo"')
    names: dict[str, Any] = {}
    for example in doctest.DocTestParser().get_examples(source):
        exec(example.source, names)
    assert Path(names["bundle"]).samefile(demo_bundle())


@pytest.mark.parametrize("text", [True, False])
def test_the_script_chats(
    text: bool,
    chat_bundle: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    script = str(ROOT / "export_scripts" / "chat.py")
    arguments = ["Once upon a time", "--text"] if text else []
    monkeypatch.setattr(sys, "argv", [script, str(chat_bundle), *arguments, "--cache", "25%"])
    monkeypatch.setattr(sys, "stdin", io.StringIO("Hello\nTell me more.\n"))
    runpy.run_path(script, run_name="__main__")
    assert capsys.readouterr().out.count("tokens/s") == (1 if text else 2)
