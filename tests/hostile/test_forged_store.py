# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""Packed weights that came with a bundle: with right checksums, or even whole, but not made here.

The engine runs under AddressSanitizer.
"""

from __future__ import annotations

import random
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.conftest import NativeBuild
from tests.files import contents
from tests.hostile.conftest import Reference
from tests.hostile.packed_bytes import PackedBytes, machine_secret
from tests.hostile.support import CarefulRunner, copy_bundle, packed_folder


@pytest.fixture
def state(tmp_path: Path) -> Path:
    return tmp_path / "state"


@pytest.fixture
def runner(native_build: Callable[[str], NativeBuild], state: Path) -> Iterator[CarefulRunner]:
    """An engine on a machine with a secret of its own."""
    build = native_build("address")
    environment = build.environment() | {"MOE_MOBILE_STATE_DIR": str(state)}
    careful = CarefulRunner(build.program("moe_runner"), environment)
    yield careful
    careful.close()


@pytest.fixture
def prepared(exported: Path, runner: CarefulRunner, tmp_path: Path) -> Path:
    bundle = copy_bundle(exported, tmp_path / "bundle")
    assert runner.run("prepare", bundle=str(bundle)).error is None
    return bundle


@pytest.mark.parametrize("rounds", [24, pytest.param(600, marks=pytest.mark.slow)])
def test_a_store_with_right_checksums_is_packed_again(
    rounds: int, prepared: Path, runner: CarefulRunner, reference: Reference
) -> None:
    folder = packed_folder(prepared)
    made_here = contents(folder)
    draw = random.Random(5)
    for round_ in range(rounds):
        store = PackedBytes(folder / draw.choice(["methods.packed", "layer-00.packed"]))
        blob = draw.randrange(len(store.entries))
        place = store.place(blob)
        anywhere, at_end = draw.randrange(place.start, place.stop), place.stop - 1
        store.data[draw.choice([anywhere, at_end])] ^= 1 << draw.randrange(8)
        store.right_blob_checksum(blob)
        store.save()
        verified = runner.run("verify", bundle=str(prepared))
        assert verified.error is not None, round_
        assert (verified.error.code, verified.error.file) == ("bundle_corrupt", str(store.path))
        assert "not made on this machine" in verified.error.cause
        opened = runner.score(prepared)
        assert opened.result == reference.scores, opened
        assert contents(folder) == made_here


def test_more_sealed_blobs_than_there_are_to_be_are_not_read(
    prepared: Path, runner: CarefulRunner, reference: Reference
) -> None:
    """Opening reads what is sealed, before it can tell who made the file."""
    for name, blob, sealed in (("layer-00", 1, 1), ("methods", 1, 1), ("methods", 0, 0)):
        store = PackedBytes(packed_folder(prepared) / f"{name}.packed")
        struct.pack_into("<I", store.entries[blob], 20, sealed)
        store.save()
        verified = runner.run("verify", bundle=str(prepared))
        assert verified.error is not None
        assert (verified.error.code, verified.error.file) == ("bundle_corrupt", str(store.path))
        assert verified.error.cause == f"blob {blob} is{'' if sealed else ' not'} sealed"
        assert runner.score(prepared).result == reference.scores


@pytest.mark.parametrize("how", ["end", "zero"])
def test_offsets_in_an_index_are_not_believed(
    prepared: Path, runner: CarefulRunner, reference: Reference, how: str
) -> None:
    """XNNPACK reads its weights where the index says, without looking at any bound."""
    for blob in (3, 5):  # the indexes of the first layer's qkv and mix
        store = PackedBytes(packed_folder(prepared) / "methods.packed")
        index = memoryview(store.data)[store.place(blob)]
        weight_bytes, count = struct.unpack_from("<QI", index, len(index) - 20)
        at = 0
        for _ in range(count):
            (name,) = struct.unpack_from("<I", index, at)
            at += 4 + name
            struct.pack_into(
                "<QQ", index, at, *((weight_bytes - 1, 1) if how == "end" else (0, 64))
            )
            at += 20
        index.release()
        store.right_blob_checksum(blob)
        store.save()
        assert runner.score(prepared).result == reference.scores


def test_a_whole_store_of_another_machine_is_packed_again(
    prepared: Path, runner: CarefulRunner, reference: Reference, state: Path
) -> None:
    made_elsewhere = contents(packed_folder(prepared))
    (state / "machine.secret").write_bytes(bytes(range(32)))
    verified = runner.run("verify", bundle=str(prepared))
    assert verified.error is not None
    assert "not made on this machine" in verified.error.cause
    assert runner.score(prepared).result == reference.scores
    assert contents(packed_folder(prepared)) != made_elsewhere
    assert runner.run("verify", bundle=str(prepared)).error is None


def test_consumed_shards_cannot_be_replaced_by_a_store_of_another_machine(
    exported: Path, runner: CarefulRunner, state: Path, tmp_path: Path
) -> None:
    bundle = copy_bundle(exported, tmp_path / "consumed")
    assert runner.run("prepare", bundle=str(bundle), consume=True).error is None
    before = contents(bundle)
    (state / "machine.secret").write_bytes(bytes(range(32)))
    opened = runner.score(bundle)
    assert opened.error is not None
    assert opened.error.code == "bundle_corrupt"
    assert "not made on this machine" in opened.error.cause
    # It may be another user's: nothing is to be deleted.
    assert str(state) in str(opened.error.remedy)
    assert "copy or export it again" in str(opened.error.remedy)
    assert "elete" not in str(opened.error.remedy)
    assert contents(bundle) == before  # nothing is lost


@pytest.mark.parametrize("rounds", [24, pytest.param(600, marks=pytest.mark.slow)])
def test_an_index_that_disagrees_with_the_bundle_ends_in_a_typed_error(
    rounds: int, prepared: Path, runner: CarefulRunner, state: Path, reference: Reference
) -> None:
    """With a right seal too: places, lengths and sources of blobs are judged by the bundle."""
    draw = random.Random(7)
    folder = packed_folder(prepared)
    made_here = contents(folder)
    for round_ in range(rounds):
        store = PackedBytes(folder / draw.choice(["methods.packed", "layer-00.packed"]))
        blob, other = draw.sample(range(len(store.entries)), 2)
        entry, end = store.entries[blob], len(store.data)
        what = draw.choice(["offset", "length", "place", "source", "swap"])
        if what in ("offset", "place"):
            struct.pack_into("<Q", entry, 0, draw.choice([0, end, end - 16384, 2**63]))
            entry[:8] = draw.choice([entry[:8], store.entries[other][:8]])
        if what in ("length", "place"):
            struct.pack_into("<Q", entry, 8, draw.choice([1, 16384, end, 2**40, 2**64 - 1]))
        if what == "source":
            entry[24:] = store.entries[other][24:]
        if what == "swap":
            store.entries[blob], store.entries[other] = store.entries[other], entry
        store.save(machine_secret(state))
        opened = runner.score(prepared)
        assert opened.result == reference.scores or opened.error is not None, (round_, what)
        if opened.error is not None:
            assert opened.error.code == "bundle_corrupt", (round_, what, opened.error)
        for path, data in made_here.items():
            (folder / path).unlink(missing_ok=True)
            (folder / path).write_bytes(data)


def test_weights_of_another_method_are_found_by_its_probe(
    prepared: Path, runner: CarefulRunner, state: Path
) -> None:
    """As if this machine itself had made a mistake: checksums and seal are right."""
    store = PackedBytes(packed_folder(prepared) / "methods.packed")
    first = 2  # after the template's two blobs
    (other,) = (
        blob
        for blob in range(first + 2, len(store.entries) - 1, 2)
        if store.place(blob).stop - store.place(blob).start
        == store.place(first).stop - store.place(first).start
        and store.source(blob) != store.source(first)
    )
    store.data[store.place(first)] = store.data[store.place(other)]
    store.right_blob_checksum(first)
    store.save(machine_secret(state))
    assert runner.run("verify", bundle=str(prepared)).error is None
    opened = runner.score(prepared)
    assert opened.error is not None
    assert (opened.error.code, opened.error.file) == ("bundle_corrupt", str(store.path))
    assert "method qkv of dense/" in opened.error.cause
    assert "does not give what its program gives" in opened.error.cause
