# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""What a deployment decides, whatever a device holds."""

from __future__ import annotations

import hashlib
import pathlib

from hypothesis import given
from hypothesis import strategies as st

from moe_mobile.device.deploy.inventory import Inventory, Present, parse_inventory, sums_lines
from moe_mobile.device.deploy.package import Package, Wanted
from moe_mobile.device.deploy.plan import Plan, make_plan, packed_bytes

DF = "Filesystem 1K-blocks Used Available Use% Mounted on\n/dev/x 100 60 40 60% /data\n"
NAMES = ("bundle.json", "dense/layer-00.pte", "experts/layer-00.shard", "experts/layer-01.shard")


def sha(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


PACKAGE = Package(
    room="bundles",
    id="aaaa",
    files=tuple(
        Wanted(name, pathlib.Path(name), 100 + i, sha(name)) for i, name in enumerate(NAMES)
    ),
    layers={
        "experts/layer-00.shard": ("layer-00.packed", 102),
        "experts/layer-01.shard": ("layer-01.packed", 103),
    },
    methods_bytes=10,
)


def inventory(
    files: dict[str, Present] | None = None, vouched: dict[str, str] | None = None
) -> Inventory:
    return Inventory(files or {}, vouched or {}, free_bytes=1 << 30)


def whole(folder: str, *, verified: bool) -> dict[str, Present]:
    return {
        f"{folder}/{file.path}": Present(file.bytes, 5, file.sha256 if verified else None)
        for file in PACKAGE.files
    }


def vouched() -> dict[str, str]:
    return {f"bundles/aaaa/{file.path}": file.sha256 for file in PACKAGE.files}


def test_an_empty_device_gets_all() -> None:
    plan = make_plan(PACKAGE, inventory())
    assert [send.file for send in plan.sends] == list(PACKAGE.files)
    assert plan.bytes_to_send == PACKAGE.bytes == 406
    assert not plan.exists


def test_verified_files_are_complete() -> None:
    assert make_plan(PACKAGE, inventory(whole("bundles/aaaa", verified=True))).complete


def test_unverified_files_are_hashed_not_sent() -> None:
    for folder in ("bundles/aaaa", "bundles/aaaa.partial"):
        plan = make_plan(PACKAGE, inventory(whole(folder, verified=False)))
        assert [(file, where) for file, where in plan.check] == [
            (file, folder) for file in PACKAGE.files
        ]
        assert plan.bytes_to_send == 0
        assert not plan.complete


def test_a_partial_file_is_continued() -> None:
    there = {"bundles/aaaa.partial/experts/layer-01.shard": Present(40, 5)}
    plan = make_plan(PACKAGE, inventory(there))
    assert {send.file.path: send.offset for send in plan.sends}["experts/layer-01.shard"] == 40
    assert plan.bytes_to_send == 406 - 40


def test_a_partial_file_that_is_too_long_or_damaged_is_sent_again() -> None:
    path = "bundles/aaaa.partial/experts/layer-01.shard"
    for there, damaged in (({path: Present(4000, 5)}, ()), ({path: Present(103, 5)}, {path})):
        plan = make_plan(PACKAGE, inventory(there), damaged)
        assert plan.bytes_to_send == 406


def test_equal_files_of_another_bundle_are_copied() -> None:
    there = {"bundles/bbbb/experts/x.shard": Present(103, 5, sha("experts/layer-01.shard"))}
    plan = make_plan(PACKAGE, inventory(there))
    assert [(copy.file.path, copy.source) for copy in plan.copies] == [
        ("experts/layer-01.shard", "bundles/bbbb/experts/x.shard")
    ]
    assert plan.bytes_to_send == 406 - 103
    assert (plan.bytes_to_send, plan.bytes_to_write) == (406 - 103, 406)


def test_a_consumed_shard_is_present_if_its_packed_file_is() -> None:
    there = whole("bundles/aaaa", verified=True)
    del there["bundles/aaaa/experts/layer-01.shard"]
    assert not make_plan(PACKAGE, inventory(there, vouched())).complete
    there["bundles/aaaa/.packed/key/layer-01.packed"] = Present(200, 6)
    assert make_plan(PACKAGE, inventory(there, vouched())).complete
    # Never verified: its packed file says nothing of what it was made from.
    assert not make_plan(PACKAGE, inventory(there)).complete


def test_space_needed_for_packed_weights() -> None:
    assert packed_bytes(PACKAGE, inventory(), consume=False) == 102 + 103 + 10
    assert packed_bytes(PACKAGE, inventory(), consume=True) == 103 + 10
    there = inventory(
        {
            "bundles/aaaa/.packed/key/layer-01.packed": Present(200, 6),
            "bundles/aaaa/.packed/key/methods.packed": Present(20, 6),
        }
    )
    assert packed_bytes(PACKAGE, there, consume=False) == 102


STATES = st.fixed_dictionaries(
    {},
    optional={
        f"bundles/{folder}/{file.path}": st.builds(
            Present,
            bytes=st.sampled_from([0, file.bytes - 1, file.bytes, file.bytes + 1]),
            mtime=st.just(5),
            sha256=st.sampled_from([None, file.sha256, sha("other")]),
        )
        for folder in ("aaaa", "aaaa.partial", "bbbb")
        for file in PACKAGE.files
    },
)


def after(plan: Plan, there: Inventory) -> Inventory:
    """The device after the plan was followed, and every hash was right."""
    files = dict(there.files)
    for file in [*(c.file for c in plan.copies), *(s.file for s in plan.sends)]:
        files[f"{PACKAGE.folder}/{file.path}"] = Present(file.bytes, 6, file.sha256)
    for file, _ in plan.check:
        files[f"{PACKAGE.folder}/{file.path}"] = Present(file.bytes, 6, file.sha256)
    return Inventory(files, there.vouched, there.free_bytes)


@given(STATES)
def test_following_the_plan_completes_any_state(files: dict[str, Present]) -> None:
    there = inventory(files)
    plan = make_plan(PACKAGE, there)
    handled = [
        *(file for file, _ in plan.check),
        *(copy.file for copy in plan.copies),
        *(send.file for send in plan.sends),
        *plan.keep,
    ]
    assert sorted(handled, key=lambda file: file.path) == sorted(
        PACKAGE.files, key=lambda file: file.path
    )
    assert 0 <= plan.bytes_to_send <= PACKAGE.bytes
    for copy in plan.copies:
        assert files[copy.source].sha256 == copy.file.sha256
    assert make_plan(PACKAGE, after(plan, there)).complete


@given(STATES)
def test_the_inventory_is_read_from_the_output_of_the_script(files: dict[str, Present]) -> None:
    folder = "bundles/aaaa"
    sums = [
        (path.removeprefix(folder + "/"), file)
        for path, file in files.items()
        if path.startswith(folder + "/") and file.sha256 is not None
    ]
    text = f"{DF}@@@ sums {folder}\n{sums_lines(sums)}@@@ files\n" + "".join(
        f"{file.bytes} {file.mtime} {path}\n" for path, file in files.items()
    )
    read = parse_inventory(text)
    assert read.free_bytes == 40 * 1024
    for path, file in files.items():
        known = file.sha256 if path.startswith(folder + "/") else None
        assert read.files[path] == Present(file.bytes, file.mtime, known)


def test_a_touched_file_is_no_longer_verified() -> None:
    text = (
        f"{DF}@@@ sums bundles/aaaa\n{sha('x')} 10 5 x\n{sha('y')} 10 5 y\n"
        "@@@ files\n10 6 bundles/aaaa/x\n10 5 bundles/aaaa/y\n"
    )
    read = parse_inventory(text)
    assert read.files["bundles/aaaa/x"].sha256 is None
    assert read.files["bundles/aaaa/y"].sha256 == sha("y")
    assert read.folders("bundles") == {"aaaa"}
