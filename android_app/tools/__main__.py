# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""The command line: `python -m android_app.tools GOAL`."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from android_app.tools import apk, app, parts, steps
from moe_mobile.errors import MoeMobileError


def _test(arguments: argparse.Namespace) -> None:
    if arguments.slow:
        print(f"{app.run_engine_tests(slow=True)} slow tests passed")
        return
    count = app.run_engine_tests()
    count += app.run_app_tests(record=arguments.record)
    print(f"{count} tests of the app passed")


def _parts(arguments: argparse.Namespace) -> None:
    parts.take_runtime(arguments.runtime)
    parts.assets()
    parts.test_properties()


def _apk(arguments: argparse.Namespace) -> None:
    made = apk.build_apk(arguments.runtime)
    print(f"{made}: {made.stat().st_size / (1 << 20):.1f} MiB")
    for name, size in apk.sizes(made).items():
        print(f"  {name:<16} {size / (1 << 20):6.2f} MiB")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m android_app.tools", description=__doc__)
    goals = parser.add_subparsers(required=True, metavar="GOAL")
    test = goals.add_parser("test", help="compile and test the engine's library and the app")
    test.add_argument("--record", action="store_true", help="write the screenshots anew")
    test.add_argument("--slow", action="store_true", help="run the engine's slow tests instead")
    test.set_defaults(run=_test)
    for name, run, text in (
        ("apk", _apk, "build the APK"),
        ("parts", _parts, "what Gradle needs: the demo bundle, the engine, test settings"),
    ):
        goal = goals.add_parser(name, help=text)
        goal.add_argument(
            "--runtime", type=Path, help="folder with the engine for phones; default: build it"
        )
        goal.set_defaults(run=run)
    arguments = parser.parse_args()
    start = time.monotonic()
    try:
        with steps.alone():
            arguments.run(arguments)
    except MoeMobileError as error:
        print(f"android_app.tools: {error}", file=sys.stderr)
        return error.exit_code
    print(f"{time.monotonic() - start:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
