# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""Exports and preparations that were killed continue, and end with the very same bytes."""

from __future__ import annotations

import json
import random
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

from moe_mobile.bundle.unfinished import JOURNAL
from tests.files import contents
from tests.hostile.support import CarefulRunner, ExportServer, copy_bundle, packed_folder
from tests.tiny import EXPERTS

LOCK = "lock"  # of prepare: empty, and stays


@pytest.fixture(scope="module")
def changes(
    export_server: ExportServer,
    tiny_checkpoint: Path,
    exported: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> int:
    """How often an uninterrupted export changes files; two exports are equal."""
    out = tmp_path_factory.mktemp("again") / "bundle"
    answer = export_server.finish(tiny_checkpoint, out)
    assert contents(out) == contents(exported)
    return int(answer["changes"])


@pytest.mark.parametrize("seed", range(12))
def test_export_killed_between_two_changes_of_files(
    seed: int,
    changes: int,
    export_server: ExportServer,
    tiny_checkpoint: Path,
    exported: Path,
    tmp_path: Path,
) -> None:
    draw = random.Random(seed)
    out = tmp_path / "bundle"
    for _ in range(5):
        answer = export_server.run(tiny_checkpoint, out, kill_at=draw.randint(1, changes // 2))
        assert answer["status"] in (0, -signal.SIGKILL), answer
        if out.exists():  # not before the export is complete
            break
    if not out.exists():
        export_server.finish(tiny_checkpoint, out)
    # If the final name exists, the bundle is complete.
    assert contents(out) == contents(exported)


@pytest.mark.parametrize("seed", range(6))
def test_a_killed_export_makes_no_expert_twice_that_was_written(
    seed: int,
    changes: int,
    export_server: ExportServer,
    tiny_checkpoint: Path,
    exported: Path,
    tmp_path: Path,
) -> None:
    """Killed in the middle of writing an expert, or between two, again and again."""
    draw = random.Random(seed)
    out = tmp_path / "bundle"
    journal = tmp_path / "bundle.partial" / JOURNAL
    written: set[tuple[str, int]] = set()
    for _ in range(4):
        answer = export_server.run(tiny_checkpoint, out, kill_at=draw.randint(1, changes // 2))
        if answer["status"] == 0:
            break
        assert answer["status"] == -signal.SIGKILL, answer
        if journal.exists():
            lines = [json.loads(line) for line in journal.read_text().splitlines()]
            found = [(x["unfinished"], x["offset"]) for x in lines if "unfinished" in x]
            assert len(set(found)) == len(found)  # none was made a second time
            assert written <= set(found)
            written = set(found)
    if answer["status"] != 0:
        answer = export_server.finish(tiny_checkpoint, out)
        assert answer["experts"] == 2 * EXPERTS - len(written)
    assert contents(out) == contents(exported)


@pytest.mark.parametrize("before_the_end", range(12))
def test_export_killed_while_it_finishes(
    before_the_end: int,
    changes: int,
    export_server: ExportServer,
    tiny_checkpoint: Path,
    exported: Path,
    tmp_path: Path,
) -> None:
    """Every step from the last file to the final name, taken one by one."""
    out = tmp_path / "bundle"
    answer = export_server.run(tiny_checkpoint, out, kill_at=changes - before_the_end)
    assert answer["status"] == -signal.SIGKILL, answer
    if not out.exists():
        export_server.finish(tiny_checkpoint, out)
    assert contents(out) == contents(exported)


@pytest.mark.parametrize("seed", range(3))
def test_export_killed_at_any_time(
    seed: int, export_server: ExportServer, tiny_checkpoint: Path, exported: Path, tmp_path: Path
) -> None:
    draw = random.Random(seed)
    out = tmp_path / "bundle"
    reach = 0.05
    for _ in range(40):
        after = [signal.SIGKILL, draw.uniform(0, reach)]
        answer = export_server.run(tiny_checkpoint, out, signal_after=after)
        assert answer["status"] in (0, -signal.SIGKILL), answer
        if out.exists():  # not before the export is complete
            break
        reach *= 1.3  # however slow the machine is, it comes to an end
    assert contents(out) == contents(exported)


def test_interrupt_leaves_what_the_next_run_continues(
    export_server: ExportServer, tiny_checkpoint: Path, exported: Path, tmp_path: Path
) -> None:
    out = tmp_path / "bundle"
    delay = 0.005
    for _ in range(40):
        answer = export_server.run(tiny_checkpoint, out, signal_after=[signal.SIGINT, delay])
        if answer["status"] == 130 and (tmp_path / "bundle.partial").exists():
            break
        # Too early for anything to be there: Python itself ends by the signal, or the command does.
        # On a busy machine the signal meets what Python runs after a fork, which ignores it.
        assert answer["status"] in (0, 1, 130, -signal.SIGINT), answer
        shutil.rmtree(out, ignore_errors=True)
        delay *= 1.2
    error = json.loads(answer["output"])["error"]
    assert error["code"] == "cancelled"
    assert "Run it again" in error["remedy"]
    assert not out.exists()
    export_server.finish(tiny_checkpoint, out)
    assert contents(out) == contents(exported)


@pytest.fixture(scope="module")
def packed(
    exported: Path, engine: CarefulRunner, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, bytes]:
    """The packed store of an uninterrupted preparation; two are equal."""
    stores = []
    for _ in range(2):
        folder = tmp_path_factory.mktemp("packed") / "store"
        assert engine.run("prepare", bundle=str(exported), packed_dir=str(folder)).error is None
        stores.append(contents(folder, ignore=(LOCK,)))
    assert stores[0] == stores[1]
    assert len(stores[0]) == 3
    return stores[0]


def prepare_and_kill(
    engine: CarefulRunner, bundle: Path, steps: int, delay: float, consume: bool
) -> bool:
    """Kills a preparation ``delay`` seconds after its step number ``steps``; False if it ended."""
    process = subprocess.Popen(
        [str(engine.binary)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=engine.environment,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    request = {"id": 1, "command": "prepare", "bundle": str(bundle), "consume": consume}
    process.stdin.write(json.dumps(request).encode() + b"\n")
    process.stdin.flush()
    ended = False
    for _ in range(steps):
        event = json.loads(process.stdout.readline())
        assert event["event"] != "error", event
        if event["event"] == "result":
            ended = True
            break
    time.sleep(delay)
    process.kill()
    process.communicate()
    return not ended


@pytest.mark.parametrize("consume", [False, True], ids=["keep", "consume"])
@pytest.mark.parametrize("seed", range(4))
def test_prepare_killed_at_any_time(
    seed: int,
    consume: bool,
    exported: Path,
    packed: dict[str, bytes],
    engine: CarefulRunner,
    tmp_path: Path,
) -> None:
    draw = random.Random(seed)
    bundle = copy_bundle(exported, tmp_path / "bundle")
    kills = 0
    for _ in range(8):
        kills += prepare_and_kill(
            engine, bundle, draw.randint(0, 14), draw.uniform(0, 0.01), consume
        )
        for name, data in contents(bundle / ".packed").items() if kills else []:
            if name.endswith(".packed"):  # a final name: complete
                assert data == packed[Path(name).name]
    assert kills > 0
    assert engine.run("prepare", bundle=str(bundle), consume=consume).error is None
    assert contents(packed_folder(bundle), ignore=(LOCK,)) == packed
    assert any((bundle / "experts").iterdir()) != consume
    assert engine.run("verify", bundle=str(bundle)).error is None
