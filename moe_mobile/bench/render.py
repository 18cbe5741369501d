# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""Results as Markdown, CSV, JSON, JSON lines or ExecuTorch's lines, each row as it is measured."""

from __future__ import annotations

import csv
from collections.abc import Callable, Sequence
from typing import Any, TextIO

from moe_mobile.base.json_text import json_text
from moe_mobile.base.routings import is_lossy, marked
from moe_mobile.bench.driver import Cell, row_name, varied
from moe_mobile.bench.observer import observer_lines
from moe_mobile.bench.row import Row
from moe_mobile.errors import MoeMobileError
from moe_mobile.settings import EngineSettings

FORMATS = ("md", "csv", "json", "jsonl", "observer")
_MIB = 1 << 20
_GIB = 1 << 30
_J = ",J=2"


class Renderer:
    """Writes rows to a text stream; call :meth:`begin`, :meth:`row` for each, :meth:`end`."""

    def __init__(self, out: TextIO, *, tokens: bool = False) -> None:
        self.out = out
        self.tokens = tokens

    def begin(self, rows: Sequence[Cell], *, phones: Sequence[str] = (), model: str = "") -> None:
        """Called once with what will be measured, the phones' serials, and the model's type."""

    def row(self, result: Row) -> None:
        """Called with each result."""
        raise NotImplementedError

    def end(self, errors: Sequence[MoeMobileError] = ()) -> None:
        """Called once after the last row, also if the run was cut short; JSON puts the errors
        after the rows."""
        self.out.flush()


class JsonLines(Renderer):
    """One JSON object per line."""

    def row(self, result: Row) -> None:
        self.out.write(json_text(result.as_dict(tokens=self.tokens)) + "\n")
        self.out.flush()


class Observer(Renderer):
    """`PyTorchObserver {json}`, a line per repetition of rows that decode."""

    def row(self, result: Row) -> None:
        for line in observer_lines(result):
            self.out.write(line + "\n")
        self.out.flush()


class Json(Renderer):
    """One JSON array; errors are its last elements."""

    def begin(self, rows: Sequence[Cell], *, phones: Sequence[str] = (), model: str = "") -> None:
        self._separator = "[\n"

    def row(self, result: Row) -> None:
        self.out.write(self._separator + json_text(result.as_dict(tokens=self.tokens), indent=2))
        self.out.flush()
        self._separator = ",\n"

    def end(self, errors: Sequence[MoeMobileError] = ()) -> None:
        for error in errors:
            self.out.write(self._separator + json_text({"error": error.as_dict()}))
            self._separator = ",\n"
        self.out.write("[]\n" if self._separator == "[\n" else "\n]\n")
        self.out.flush()


class Csv(Renderer):
    """A header and a line per row. Lists but flags are left out, objects are written as JSON."""

    def begin(self, rows: Sequence[Cell], *, phones: Sequence[str] = (), model: str = "") -> None:
        self._writer = csv.writer(self.out, lineterminator="\n")
        self._header_due = True

    def row(self, result: Row) -> None:
        flat: dict[str, Any] = {}
        for name, value in result.as_dict().items():
            if name == "flags":  # of the lists the one without which a row misleads
                value = "; ".join(value)
            if isinstance(value, list):
                continue
            flat[name] = json_text(value, sort_keys=True) if isinstance(value, dict) else value
        if self._header_due:
            self._writer.writerow(flat)
            self._header_due = False
        self._writer.writerow("" if value is None else value for value in flat.values())
        self.out.flush()


_Column = tuple[str, int, Callable[[Row], str]]


class Markdown(Renderer):
    """llama-bench's table and our columns. Settings that no row changes have no column."""

    def begin(self, rows: Sequence[Cell], *, phones: Sequence[str] = (), model: str = "") -> None:
        default = EngineSettings().as_request()
        asked = [settings.as_request() for _, settings in rows]
        columns: list[_Column] = [
            ("model", max(22, len(_cell(model))), lambda r: r.model_type),
            ("size", 10, lambda r: _size(r.model_size)),
            ("params", 8, lambda r: _count(r.model_n_params)),
            ("backend", 7, lambda r: r.backends),
            ("threads", 7, lambda r: str(r.n_threads)),
            ("cache", 6, _cache),
        ]
        optional: list[_Column] = [
            ("residency", 9, lambda r: str(r.config["residency"])),
            ("routing", _routing_width(rows), _routing),
            ("lanes", 5, lambda r: str(r.config["lanes"])),
        ]
        if len(phones) > 1:
            width = max(16, *map(len, phones))
            columns.insert(0, ("device", width, lambda r: str(r.device["serial"])))
        for column in optional:
            if any(one[column[0]] != default[column[0]] for one in asked):
                columns.append(column)
        columns += [
            ("test", 14, lambda r: r.test.name),
            ("t/s", 18, lambda r: f"{r.avg_ts:.2f} ± {r.stddev_ts:.2f}"),
            ("ttft ms", 9, lambda r: _number(r.ttft_ms, 1)),
            ("p50 ms", 8, lambda r: _number(r.itl_p50_ms, 2)),
            ("p95 ms", 8, lambda r: _number(r.itl_p95_ms, 2)),
            ("p99 ms", 8, lambda r: _number(r.itl_p99_ms, 2)),
            ("hit %", 6, lambda r: _percent(r.hit_rate)),
            ("MiB/tok", 8, lambda r: f"{r.mib_read_per_token:.2f}"),
            ("wait %", 6, lambda r: _percent(r.wait_share)),
            ("anon MiB", 8, lambda r: f"{r.rss_anon_bytes / _MIB:.0f}"),
            ("file MiB", 8, lambda r: f"{r.rss_file_bytes / _MIB:.0f}"),
        ]
        if phones:
            columns += [
                ("pss MiB", 7, lambda r: _mib(r.pss_bytes)),
                ("J/tok", 6, _joules),
            ]
        self._notes: list[str] = []
        self._varied = varied(rows)
        self._several = len(phones) > 1
        self._columns = columns
        # Text columns are aligned to the left, numbers to the right, as llama-bench does.
        self._left = {"device", "model", "backend", "residency", "routing"}
        self._line([name for name, _, _ in columns])
        rule = [
            "-" * (width + 2) if name in self._left else "-" * (width + 1) + ":"
            for name, width, _ in columns
        ]
        self.out.write("|" + "|".join(rule) + "|\n")
        self.out.flush()

    def row(self, result: Row) -> None:
        self._line([value(result) for _, _, value in self._columns])
        self.out.flush()
        self._last = result
        notes = list(result.flags)
        if result.joules_per_token is not None and result.energy_note is not None:
            notes.append(f"* energy: {result.energy_note}")
        if notes:
            where = f"{result.device['serial']}, " if self._several else ""
            asked = {"routing": result.routing["requested"], "threads": result.n_threads}
            name = row_name(result.test, result.config | asked, self._varied)
            self._notes.append(f"{where}{name}: {'; '.join(notes)}")

    def end(self, errors: Sequence[MoeMobileError] = ()) -> None:
        last: Row | None = getattr(self, "_last", None)
        if last is not None:
            reading = "O_DIRECT" if last.direct_io else "buffered reads"
            self.out.write(
                f"\nbuild: {last.build_commit} ({last.build_number}), moe-mobile {last.version}, "
                f"ExecuTorch {last.executorch_version}, {reading}\n"
                f"bundle: {last.bundle_hash}\n"
            )
            for note in self._notes:
                self.out.write(f"- {note}\n")
        self.out.flush()

    def _line(self, cells: Sequence[str]) -> None:
        padded = []
        for (name, width, _), text in zip(self._columns, cells, strict=True):
            cell = _cell(text)
            padded.append(cell.ljust(width) if name in self._left else cell.rjust(width))
        self.out.write("| " + " | ".join(padded) + " |\n")


class Shown:
    """Rows, and notes that go elsewhere, mostly to the same terminal.

    A table stays whole: it begins with its first row, when most has been noted, and what is noted
    later comes below it. ``note`` prints one.
    """

    def __init__(
        self,
        renderer: Renderer,
        rows: Sequence[Cell],
        *,
        phones: Sequence[str],
        note: Callable[[str], None],
    ) -> None:
        self._renderer, self._rows, self._phones = renderer, rows, phones
        self._print = note
        self._begun = False
        self._later: list[str] = []

    def note(self, text: str) -> None:
        """Print it; below the table if the table has begun."""
        if self._begun and isinstance(self._renderer, Markdown):
            self._later.append(text)
        else:
            self._print(text)

    def row(self, result: Row) -> None:
        """Render it."""
        if not self._begun:
            self._renderer.begin(self._rows, phones=self._phones, model=result.model_type)
            self._begun = True
        self._renderer.row(result)

    def end(self, errors: Sequence[MoeMobileError] = ()) -> None:
        """Called once, see :meth:`Renderer.end`; without rows and errors there is nothing to
        end."""
        if errors and not self._begun and isinstance(self._renderer, Json):
            self._renderer.begin(self._rows)
            self._begun = True
        if self._begun:
            self._renderer.end(errors)
        for text in self._later:
            self._print(text)


def make_renderer(format: str, out: TextIO, *, tokens: bool = False) -> Renderer:
    """The renderer of a format in :data:`FORMATS`."""
    kinds = {"md": Markdown, "csv": Csv, "json": Json, "jsonl": JsonLines, "observer": Observer}
    return kinds[format](out, tokens=tokens)


def _cell(text: str) -> str:
    return text.replace("|", "\\|")  # a model's name may hold one


def _cache(result: Row) -> str:
    return "all" if result.config["residency"] == "resident" else str(result.config["cache"])


def _routing(result: Row) -> str:
    return marked(result.routing["resolved"], result.config["precision"])


def _routing_width(rows: Sequence[Cell]) -> int:
    """Wide enough for the rows' resolved routings, which may name a J that was not given."""
    widths = [8]
    for _, settings in rows:
        asked, precision = settings.routing.method, settings.routing.precision
        j = _J * (is_lossy(asked) and "J=" not in asked)
        widths.append(len(marked(asked + j, precision)))
    return max(widths)


def _size(size: int) -> str:
    return f"{size / _GIB:.2f} GiB" if size >= _GIB else f"{size / _MIB:.2f} MiB"


def _count(count: int) -> str:
    return f"{count / 1e9:.2f} B" if count >= 1e9 else f"{count / 1e6:.2f} M"


def _number(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f}"


def _mib(bytes: int | None) -> str:
    return "-" if bytes is None else f"{bytes / _MIB:.0f}"


def _joules(result: Row) -> str:
    """An asterisk leads to the note that says why not to believe it."""
    star = "" if result.energy_reliable else "*"
    return "-" if result.joules_per_token is None else f"{result.joules_per_token:.2f}{star}"
