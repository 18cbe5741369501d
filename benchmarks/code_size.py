# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""How large the code is: ``python -m benchmarks.code_size BEFORE AFTER``.

Counts the lines of tracked files of two git revisions by room, and lists the longest functions
and the widest signatures of each. Python is parsed; C++ is read by its layout, which clang-format
keeps.
"""

from __future__ import annotations

import argparse
import ast
import json
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass

ENGINE = "android_app/engine/src/main/cpp/"
WHEEL = "moe_mobile/"
CODE = (".py", ".pyi", ".h", ".cpp", ".cmake", ".html", ".js", ".css", ".md", ".sh")
MOST = 10
# What opens a block in C++ but no function.
NO_FUNCTION = re.compile(
    r"^\s*(namespace|class|struct|enum|union|extern|if|for|while|switch|else|do|try|return|=)\b"
)


@dataclass(frozen=True)
class Function:
    """``place`` is its file and first line; ``lines`` the whole definition's."""

    name: str
    place: str
    lines: int
    parameters: int


def git(*arguments: str) -> str:
    return subprocess.run(["git", *arguments], check=True, capture_output=True, text=True).stdout


def files_of(revision: str) -> dict[str, str]:
    """The text of each tracked source or documentation file."""
    names = git("ls-tree", "-r", "--name-only", revision).split("\n")
    wanted = [name for name in names if name.endswith(CODE)]
    return {name: git("show", f"{revision}:{name}") for name in wanted}


def room_of(path: str) -> str:
    """The folder that a file counts for."""
    parts = path.split("/")
    if path.startswith(ENGINE):
        return "engine: " + path.removeprefix(ENGINE).split("/")[0]
    if path.startswith(WHEEL) and len(parts) == 2:
        return "moe_mobile/*"
    return "/".join(parts[: 2 if parts[0] in ("moe_mobile", "tests") else 1])


def python_functions(path: str, text: str) -> Iterator[Function]:
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            a = node.args
            names = [p.arg for p in (*a.posonlyargs, *a.args, *a.kwonlyargs)]
            count = len([name for name in names if name not in ("self", "cls")])
            length = (node.end_lineno or node.lineno) - node.lineno + 1
            yield Function(node.name, f"{path}:{node.lineno}", length, count)


def parameters(signature: str) -> int:
    """How many commas at depth one the first parentheses have, plus one; none if empty."""
    begin = signature.find("(")
    depth, count, empty = 0, 1, True
    for character in signature[begin:]:
        if character in "([{<":
            depth += 1
        elif character in ")]}>":
            depth -= 1
            if depth == 0:
                break
        elif character == "," and depth == 1:
            count += 1
        if depth > 0 and character not in "( \n":
            empty = False
    return 0 if empty else count


def cpp_functions(path: str, text: str) -> Iterator[Function]:
    lines = text.split("\n")
    start = 0  # of the statement that the current line belongs to
    for at, line in enumerate(lines):
        bare = line.split("//")[0].rstrip()
        signature = "\n".join(lines[start : at + 1])
        if bare.endswith("{") and "(" in signature and not NO_FUNCTION.match(lines[start]):
            indent = re.match(r" *", lines[start])
            closing = (indent[0] if indent else "") + "}"
            end = next((i for i in range(at, len(lines)) if lines[i].startswith(closing)), at)
            name = re.search(r"([~\w:]+)\s*\(", signature)
            if name and len(closing) <= 3:
                count = parameters(signature)
                yield Function(name[1], f"{path}:{start + 1}", end - start + 1, count)
        if not bare.strip() or bare.endswith((";", "{", "}", ":")) or line.startswith("#"):
            start = at + 1


def measure(revision: str) -> dict[str, object]:
    """Everything about one revision, ready for JSON."""
    files = files_of(revision)
    rooms: Counter[str] = Counter()
    for path, text in files.items():
        rooms[room_of(path)] += text.count("\n")
    functions: list[Function] = []
    for path, text in files.items():
        if path.endswith(".py") and not path.startswith("tests/"):
            functions += python_functions(path, text)
        elif path.startswith(ENGINE):
            functions += cpp_functions(path, text)
    longest = sorted(functions, key=lambda f: -f.lines)[:MOST]
    widest = sorted(functions, key=lambda f: -f.parameters)[:MOST]
    engine = sum(t.count("\n") for p, t in files.items() if p.startswith(ENGINE))
    wheel = sum(t.count("\n") for p, t in files.items() if p.startswith(WHEEL) and ".py" in p)
    return {
        "revision": git("rev-parse", "--short", revision).strip(),
        "tree_lines": sum(rooms.values()),
        "wheel_python_lines": wheel,
        "engine_lines": engine,
        "rooms": dict(sorted(rooms.items())),
        "longest": [asdict(f) for f in longest],
        "widest": [asdict(f) for f in widest],
    }


def show(before: dict[str, object], after: dict[str, object]) -> str:
    """Both revisions as Markdown."""
    out = [f"| lines | {before['revision']} | {after['revision']} |", "|---|---:|---:|"]
    for name in ("tree_lines", "wheel_python_lines", "engine_lines"):
        out.append(f"| {name.replace('_', ' ')} | {before[name]} | {after[name]} |")
    old, new = before["rooms"], after["rooms"]
    assert isinstance(old, dict)
    assert isinstance(new, dict)
    for room in sorted({*old, *new}):
        out.append(f"| {room} | {old.get(room, 0)} | {new.get(room, 0)} |")
    for title, key, unit in (
        ("Longest functions", "longest", "lines"),
        ("Widest signatures", "widest", "parameters"),
    ):
        out += ["", f"| {title}, before | {unit} | after | {unit} |", "|---|---:|---|---:|"]
        for one, other in zip(before[key], after[key], strict=True):  # type: ignore[call-overload]
            cells = [f"{f['name']} ({f['place'].split('/')[-1]}) | {f[unit]}" for f in (one, other)]
            out.append(f"| {cells[0]} | {cells[1]} |")
    return "\n".join(out)


def main() -> int:
    """Prints the comparison as Markdown, or as JSON."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.code_size", description=__doc__)
    parser.add_argument("before", help="a git revision")
    parser.add_argument("after", nargs="?", default="HEAD", help="a git revision")
    parser.add_argument("--json", action="store_true", help="print everything as JSON")
    arguments = parser.parse_args()
    both = measure(arguments.before), measure(arguments.after)
    print(json.dumps(both, indent=1) if arguments.json else show(*both))
    return 0


if __name__ == "__main__":
    sys.exit(main())
