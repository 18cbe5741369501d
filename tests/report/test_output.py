# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""Where `report -o` writes, and what it leaves alone."""

from __future__ import annotations

import os
import pathlib
import stat
import sys
import threading

import pytest

from moe_mobile import errors
from moe_mobile.base.outputs import write_output
from tests.cli.program import failed, ok, run_cli
from tests.report.rows import row, write


def test_results_are_not_replaced_by_their_page(tmp_path: pathlib.Path) -> None:
    path, other = write(tmp_path / "rows.jsonl", row()), write(tmp_path / "other.jsonl", row())
    (tmp_path / "link.html").symlink_to(path)
    os.link(path, tmp_path / "hard.html")
    before = path.read_text()
    for target in (path, tmp_path / "link.html", tmp_path / "hard.html"):
        # With --json nothing is written: the error is asked for on stderr.
        result = run_cli("report", other, path, "-o", target)
        assert result.returncode == 2, result.stderr
        assert "--out, RESULTS: the first would replace what the second names" in result.stderr
        assert str(target) in result.stderr
    with path.open() as stdin:
        result = run_cli("report", "-", "-o", path, stdin=stdin)
    assert (result.returncode, path.read_text()) == (2, before)
    assert list(tmp_path.glob("*.tmp")) == []


def test_only_a_page_is_replaced(tmp_path: pathlib.Path) -> None:
    path, other = write(tmp_path / "rows.jsonl", row()), write(tmp_path / "other.jsonl", row())
    before = other.read_text()
    result = run_cli("report", path, "-o", other)
    assert (result.returncode, other.read_text()) == (2, before)
    assert "holds something other than a page" in result.stderr
    page = tmp_path / "page.html"
    page.touch()
    ok("report", path, "-o", page)
    ok("report", path, "-o", page, "--title", "another")
    assert "<h1>another</h1>" in page.read_text()
    result = run_cli("report", path, "-o", tmp_path / "page.pdf")
    assert result.returncode == 2
    assert "the page is HTML" in result.stderr
    # Nothing is written, so nothing is refused.
    ok("report", path, "-o", path, "--json")


def test_a_link_leads_to_the_page(tmp_path: pathlib.Path) -> None:
    link = tmp_path / "link.html"
    link.symlink_to("pages/page.html")
    ok("report", write(tmp_path / "rows.jsonl", row()), "-o", link)
    assert os.readlink(link) == "pages/page.html"
    assert (tmp_path / "pages/page.html").read_text().startswith("<!doctype html>")


def test_a_pipe_stays_a_pipe(tmp_path: pathlib.Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    found: list[bytes] = []
    reader = threading.Thread(target=lambda: found.append(pipe.read_bytes()), daemon=True)
    reader.start()
    ok("report", write(tmp_path / "rows.jsonl", row()), "-o", pipe)
    reader.join(300)
    assert found[0].startswith(b"<!doctype html>")
    assert found[0].endswith(b"</html>")
    assert stat.S_ISFIFO(pipe.stat().st_mode)


@pytest.mark.skipif(sys.platform != "linux", reason="/dev/fd of other systems differs")
def test_a_stream_of_its_own(tmp_path: pathlib.Path) -> None:
    path = write(tmp_path / "rows.jsonl", row())
    assert ok("report", path, "-o", "/proc/self/fd/1").startswith("<!doctype html>")


def test_unwritable_outputs_give_typed_errors(tmp_path: pathlib.Path) -> None:
    loop = tmp_path / "loop"
    loop.symlink_to(loop)
    for target in (loop, tmp_path):
        with pytest.raises(errors.IoError) as caught:
            write_output(target, b"data")
        assert caught.value.file == str(target)
    assert failed(6, "report", tmp_path / "none")["file"] == str(tmp_path / "none")


def test_a_page_needs_a_name(tmp_path: pathlib.Path) -> None:
    result = run_cli("report", write(tmp_path / "rows.jsonl", row()), "-o", "", cwd=tmp_path)
    assert result.returncode == 2
    assert "error: --out: it is empty" in result.stderr
