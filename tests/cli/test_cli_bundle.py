# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""export, inspect, verify and prepare on a real bundle."""

from __future__ import annotations

import fcntl
import json
import os
import pathlib
import re
import shutil
from collections.abc import Callable

import pytest
from click.testing import CliRunner

from moe_mobile.cli import cli
from moe_mobile.device.local import LocalDevice
from tests.bundles import FEW_ROWS
from tests.cli.program import failed, ok, ok_json, run_cli
from tests.files import contents

MakeBundle = Callable[[], pathlib.Path]


def _flip(path: pathlib.Path, position: int) -> None:
    data = bytearray(path.read_bytes())
    data[position] ^= 1
    path.write_bytes(data)


def test_export_reports_its_result(exported: tuple[pathlib.Path, str]) -> None:
    bundle, text = exported
    lines = dict(line.split(maxsplit=1) for line in text.splitlines())
    assert lines["bundle"] == str(bundle)
    assert "16 experts and 3 dense" in lines["programs"]
    formats = "experts 8da4w, dense 8da8w, head 8da8w, embedding int8, groups of 32"
    assert lines["quantization"] == f"8da4w+8da8w: {formats}"
    assert lines["memory"].startswith("at least ")
    assert re.match(r"prepare +about [\d.]+ KiB more", lines["to"])


def test_help_of_export_names_the_default() -> None:
    text = " ".join(ok("export", "--help").split())
    assert "--quant [fp32|8da8w|8da4w|8da4w+8da8w]" in text
    assert "[default: 8da4w+8da8w]" in text
    assert "--dense [fp32|8da8w|8da4w] " in text


def test_the_default_has_its_name_wherever_a_bundle_has_one(copy_bundle: MakeBundle) -> None:
    bundle = copy_bundle()
    stated = json.loads((bundle / "bundle.json").read_text())["quantization"]
    assert stated == {
        "experts": "8da4w", "dense": "8da8w", "head": "8da8w", "embedding": "int8", "group_size": 32
    }  # fmt: skip
    facts = ok_json("inspect", bundle)
    assert facts["quantization"] == {"name": "8da4w+8da8w", **stated}
    (row,) = ok_json("bench", bundle, "-p", 0, "-n", 2, "-r", 1)
    assert row["model_type"] == f"{facts['model']['name']} 8da4w+8da8w"


def test_export_refuses_to_replace_a_bundle(
    exported: tuple[pathlib.Path, str], checkpoint: pathlib.Path
) -> None:
    error = failed(2, "export", checkpoint, exported[0])
    assert error["file"] == str(exported[0])
    assert "overwrite" in error["remedy"]


def test_a_bundle_is_not_exported(
    exported: tuple[pathlib.Path, str], tmp_path: pathlib.Path
) -> None:
    error = failed(2, "export", exported[0], tmp_path / "out")
    assert error["file"] == str(exported[0])
    assert error["cause"] == "it is a bundle already, not a checkpoint"


def test_export_of_a_broken_checkpoint(tmp_path: pathlib.Path) -> None:
    (tmp_path / "config.json").write_text("{")
    error = failed(11, "export", tmp_path, tmp_path / "out")
    assert error["code"] == "checkpoint"
    assert not (tmp_path / "out").exists()


def test_export_of_an_unknown_family(checkpoint: pathlib.Path, tmp_path: pathlib.Path) -> None:
    shutil.copytree(checkpoint, tmp_path, dirs_exist_ok=True)
    (tmp_path / "config.json").write_text('{"model_type": "gpt2"}')
    assert "gpt2" in failed(3, "export", tmp_path, tmp_path / "out")["cause"]


def test_inspect_tells_the_same_in_both_forms(exported: tuple[pathlib.Path, str]) -> None:
    bundle = exported[0]
    facts = ok_json("inspect", bundle)
    manifest = json.loads((bundle / "bundle.json").read_text())
    assert facts["memory"] == manifest["memory"]
    assert facts["model"]["num_parameters"] == manifest["model"]["num_parameters"]
    assert facts["bytes"] == sum(f.stat().st_size for f in bundle.rglob("*") if f.is_file())
    assert facts["packed"] == []
    text = ok("inspect", bundle)
    assert facts["hash"] in text
    assert "no; opening it prepares it" in text


def test_verify_reads_everything(exported: tuple[pathlib.Path, str]) -> None:
    bundle = exported[0]
    found = ok_json("verify", bundle)
    assert found["hash"] == ok_json("inspect", bundle)["hash"]
    assert found["bytes"] == sum(f.stat().st_size for f in bundle.rglob("*") if f.is_file())
    assert found["packed"] is None
    assert ok("verify", bundle).startswith("ok: ")


@pytest.mark.parametrize("name", ["experts/layer-01.shard", "dense/head.pte", "tokenizer.json"])
def test_verify_finds_a_flipped_bit(copy_bundle: MakeBundle, name: str) -> None:
    bundle = copy_bundle()
    _flip(bundle / name, 40)
    error = failed(5, "verify", bundle)
    assert (error["code"], error["file"]) == ("bundle_corrupt", str(bundle / name))


def test_export_says_what_prepare_writes(checkpoint: pathlib.Path, tmp_path: pathlib.Path) -> None:
    """With the demo model, the smallest that anyone runs; docs/findings/full-size.md has others."""
    told = ok_json("export", "demo", tmp_path / "demo", "--quant", "fp32")["prepare_bytes"]
    written = ok_json("prepare", tmp_path / "demo")["bytes_written"]
    assert abs(told / written - 1) < 0.1


def test_prepare_packs_once(copy_bundle: MakeBundle) -> None:
    bundle = copy_bundle()
    assert ok("prepare", bundle).startswith("packed 16 experts, wrote ")
    again = ok_json("prepare", bundle)
    assert again["already_prepared"]
    facts = ok_json("inspect", bundle)
    assert [store["key"] for store in facts["packed"]] == [pathlib.Path(again["packed_dir"]).name]
    assert facts["packed"][0]["bytes"] > 0
    assert facts["packed"][0]["refused"] is None
    packed = ok_json("verify", bundle)["packed"]
    assert packed["blobs"] > 16


def test_inspect_says_if_another_machine_prepared(
    copy_bundle: MakeBundle, tmp_path: pathlib.Path
) -> None:
    bundle = copy_bundle()
    ok("prepare", bundle)
    assert "refused" not in ok("inspect", bundle)
    elsewhere = os.environ | {"MOE_MOBILE_STATE_DIR": str(tmp_path / "other")}
    told = run_cli("inspect", bundle, env=elsewhere).stdout
    assert re.search(r"^prepared .* [KM]iB\), refused: was not made on this machine", told, re.M)


def test_a_second_prepare_waits_for_the_first(copy_bundle: MakeBundle) -> None:
    bundle = copy_bundle()
    store = pathlib.Path(ok_json("prepare", bundle)["packed_dir"])
    (store / "layer-01.packed").unlink()
    with (store / "lock").open() as lock, LocalDevice().runner() as runner:
        fcntl.flock(lock, fcntl.LOCK_EX)
        stages: list[str] = []

        def watch(stage: str, done: int, total: int, detail: str = "") -> None:
            stages.append(stage)
            if stages.count("wait") == 2:
                fcntl.flock(lock, fcntl.LOCK_UN)

        answer = runner.request("prepare", bundle=str(bundle), progress=watch)
    assert stages.count("wait") >= 2
    assert "wait" not in stages[stages.index("prepare") :]
    assert not answer["already_prepared"]
    assert ok_json("verify", bundle)["packed"]["complete"]


def test_verify_finds_a_flipped_bit_in_packed_weights(copy_bundle: MakeBundle) -> None:
    bundle = copy_bundle()
    store = pathlib.Path(ok_json("prepare", bundle)["packed_dir"])
    path = store / "layer-01.packed"
    _flip(path, path.stat().st_size // 2)
    error = failed(5, "verify", bundle)
    assert error["file"] == str(path)


def test_verify_says_where_an_interrupted_prepare_left_off(copy_bundle: MakeBundle) -> None:
    bundle = copy_bundle()
    store = pathlib.Path(ok_json("prepare", bundle)["packed_dir"])
    assert ok_json("verify", bundle)["packed"]["complete"]
    (store / "layer-01.packed").unlink()
    assert not ok_json("verify", bundle)["packed"]["complete"]
    assert "`moe-mobile prepare` goes on" in ok("verify", bundle)


def test_verify_refuses_bundles_that_cannot_be_opened(copy_bundle: MakeBundle) -> None:
    bundle = copy_bundle()
    store = pathlib.Path(ok_json("prepare", bundle, "--consume")["packed_dir"])
    layer = store / "layer-01.packed"
    intact = layer.read_bytes()
    _flip(layer, len(intact) // 2)
    assert failed(5, "verify", bundle)["file"] == str(layer)
    layer.write_bytes(intact)
    (store / "methods.packed").unlink()
    assert failed(4, "verify", bundle)["file"] == str(store / "methods.packed")


def test_verify_counts_the_same_files_however_it_reads_them(copy_bundle: MakeBundle) -> None:
    bundle = copy_bundle()
    before = ok_json("verify", bundle)
    ok("prepare", bundle)
    after = ok_json("verify", bundle)
    assert [after[name] for name in ("files", "bytes", "hash")] == [
        before[name] for name in ("files", "bytes", "hash")
    ]


def test_no_shard_is_consumed_for_damaged_packed_weights(copy_bundle: MakeBundle) -> None:
    bundle = copy_bundle()
    path = pathlib.Path(ok_json("prepare", bundle)["packed_dir"]) / "layer-01.packed"
    intact = path.read_bytes()
    _flip(path, len(intact) // 2)
    ok("prepare", bundle, "--consume")
    assert path.read_bytes() == intact
    assert list((bundle / "experts").iterdir()) == []


def test_packed_weights_may_lie_elsewhere(copy_bundle: MakeBundle, tmp_path: pathlib.Path) -> None:
    bundle = copy_bundle()
    store = tmp_path / "store"
    ok("prepare", bundle, "--packed-dir", store)
    assert not (bundle / ".packed").exists()
    assert ok_json("verify", bundle, "--packed-dir", store)["packed"]["directory"] == str(store)
    error = failed(6, "verify", bundle, "--packed-dir", tmp_path / "stroe")
    assert error["file"] == str(tmp_path / "stroe")
    assert error["cause"] == "there are no packed weights of this bundle"


def test_packed_weights_of_another_bundle_are_not_replaced(
    copy_bundle: MakeBundle, checkpoint: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    bundle, other, store = copy_bundle(), tmp_path / "other", tmp_path / "store"
    ok("prepare", bundle, "--consume", "--packed-dir", store)
    facts = ok_json("inspect", bundle, "--packed-dir", store)
    assert (facts["consumed_shards"], len(facts["packed"])) == (2, 1)
    before = contents(store)
    ok("export", checkpoint, other, "--quant", "fp32", "--max-batch", FEW_ROWS)
    for command in (("prepare", other), ("generate", other, "-p", "Once", "-n", 2)):
        error = failed(2, *command, "--packed-dir", store)
        assert "of another bundle" in error["cause"]
    assert contents(store) == before
    ok("generate", bundle, "-p", "Once", "-n", 2, "--packed-dir", store)


def test_an_impossible_bundle_name_is_refused_at_once(
    checkpoint: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    error = failed(2, "export", checkpoint, tmp_path / "out", "--name", "a\x01b")
    assert error["setting"] == "--name"
    assert list(tmp_path.iterdir()) == []


def test_consumed_bundles_stay_usable(copy_bundle: MakeBundle) -> None:
    bundle = copy_bundle()
    told = ok("prepare", bundle, "--consume")
    assert re.search(r"^deleted 2 shards \(.* [KM]iB\)\. The experts are in that fol", told, re.M)
    assert list((bundle / "experts").iterdir()) == []
    again = ok_json("prepare", bundle, "--consume")
    assert (again["already_prepared"], again["shards_deleted"]) == (True, 0)
    assert "2 shards live in that store only" in ok("inspect", bundle)
    assert ok_json("inspect", bundle)["consumed_shards"] == 2
    assert ok_json("verify", bundle)["packed"]["blobs"] > 16
    ok("generate", bundle, "-p", "Once", "-n", 2)
    error = failed(6, "generate", bundle, "-p", "Once", "--residency", "programs")
    assert "consume" in error["cause"]


def test_consuming_a_prepared_bundle_says_what_it_deletes(copy_bundle: MakeBundle) -> None:
    bundle = copy_bundle()
    assert ok_json("prepare", bundle)["shards_deleted"] == 0
    shards = [file.stat().st_size for file in (bundle / "experts").iterdir()]
    answer = ok_json("prepare", bundle, "--consume")
    assert (answer["already_prepared"], answer["shards_deleted"]) == (True, len(shards))
    assert answer["bytes_deleted"] == sum(shards)


@pytest.mark.parametrize("name", ["experts", "experts/layer-00.shard"])
def test_a_part_moved_behind_a_link(
    name: str, copy_bundle: MakeBundle, tmp_path: pathlib.Path
) -> None:
    """A larger disk, say. Nothing has to be exported again."""
    bundle = copy_bundle()
    (bundle / name).rename(tmp_path / "elsewhere")
    (bundle / name).symlink_to(tmp_path / "elsewhere")
    for command in ("inspect", "verify", "prepare"):
        error = failed(4, command, bundle)
        assert error["file"] == str(bundle / name)
        assert error["cause"].startswith("is a symbolic link")
        assert "itself there" in error["remedy"]


def test_a_lost_shard_without_packed_weights_is_an_error(copy_bundle: MakeBundle) -> None:
    bundle = copy_bundle()
    (bundle / "experts/layer-00.shard").unlink()
    for command in ("inspect", "verify"):
        assert failed(4, command, bundle)["file"] == str(bundle / "experts/layer-00.shard")


def test_progress_goes_to_stderr_only(exported: tuple[pathlib.Path, str]) -> None:
    result = run_cli("verify", exported[0], "--json")
    json.loads(result.stdout)
    assert result.stderr == ""  # not a terminal, and quickly done


def test_commands_run_inside_of_a_host_process_too(exported: tuple[pathlib.Path, str]) -> None:
    result = CliRunner().invoke(cli, ["verify", str(exported[0]), "--json"])
    assert result.exit_code == 0
    assert json.loads(result.stdout)["files"] > 5
