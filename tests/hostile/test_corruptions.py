# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""Corrupted bundles give typed errors that name the file, under AddressSanitizer and UBSan."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from moe_mobile.bundle import verify_bundle
from moe_mobile.errors import MoeMobileError
from tests.hostile.conftest import Reference
from tests.hostile.file_cases import BUNDLE, PACKED, Corruption, find, flip
from tests.hostile.manifest_cases import LIES, MANIFEST, NOT_UTF8
from tests.hostile.support import TOKENS, CarefulRunner, Outcome
from tests.tiny import VOCAB


def _rewrite(bundle: Path, change: Callable[[bytes], bytes]) -> None:
    path = bundle / "bundle.json"
    path.write_bytes(change(path.read_bytes()))


CASES: dict[str, Corruption] = {
    **{
        f"manifest-{name}": Corruption(
            "bundle.json", {code}, functools.partial(_rewrite, change=change)
        )
        for name, (code, change) in MANIFEST.items()
    },
    **{
        f"manifest-{name}": Corruption(
            "bundle.json",
            {"bundle_invalid"},
            functools.partial(_rewrite, change=change),
        )
        for name, change in NOT_UTF8.items()
    },
    **{
        f"manifest-lies-{name}": Corruption(file, codes, functools.partial(_rewrite, change=change))
        for name, (codes, file, change) in LIES.items()
    },
    **BUNDLE,
    **PACKED,
}


def consume(bundle: Path) -> None:
    """What ``prepare --consume`` leaves: the packed store replaces the shards."""
    for shard in (bundle / "experts").iterdir():
        shard.unlink()


def expect(outcome: Outcome, case: Corruption) -> None:
    assert outcome.error is not None, "the corruption was not noticed"
    assert outcome.error.code in case.codes, outcome
    assert outcome.error.file is not None
    assert case.file in outcome.error.file, outcome
    assert outcome.error.cause


def test_there_are_at_least_forty_corruptions() -> None:
    assert len(CASES) >= 40


@pytest.mark.parametrize("name", CASES)
def test_corruption(name: str, reference: Reference, engine: CarefulRunner, tmp_path: Path) -> None:
    case = CASES[name]
    bundle = reference.copy(tmp_path / "bundle")
    case.apply(bundle)
    expect(engine.run("verify", bundle=str(bundle)), case)
    # Running it gives an error about a file of the bundle, or exactly what the intact bundle gives:
    # a file that running does not read, or a damaged store that opening the bundle made again.
    outcome = engine.score(bundle)
    if outcome.error is not None:
        assert outcome.error.file is not None
        assert str(bundle) in outcome.error.file, outcome
        assert outcome.error.code in {*case.codes, "io"}, outcome
    else:
        assert outcome.result == reference.scores


@pytest.mark.parametrize("name", PACKED)
def test_damaged_store_without_shards(
    name: str, reference: Reference, engine: CarefulRunner, tmp_path: Path
) -> None:
    case = PACKED[name]
    bundle = reference.copy(tmp_path / "bundle")
    consume(bundle)
    case.apply(bundle)
    expect(engine.run("verify", bundle=str(bundle)), case)
    expect(engine.score(bundle, residency="resident"), case)
    expect(engine.score(bundle), case)


@pytest.mark.parametrize("name", [name for name in BUNDLE if "shard" in name or "experts" in name])
def test_damaged_shard_is_not_packed(
    name: str, reference: Reference, engine: CarefulRunner, tmp_path: Path
) -> None:
    case = BUNDLE[name]
    bundle = reference.copy(tmp_path / "bundle")
    case.apply(bundle)
    elsewhere = tmp_path / "packed"
    outcome = engine.run("prepare", bundle=str(bundle), packed_dir=str(elsewhere))
    if name == "shard-flipped-padding":  # nobody reads it
        assert outcome.error is None
        return
    expect(outcome, case)
    # And experts are not taken from it one by one either.
    outcome = engine.score(bundle, residency="programs")
    expect(outcome, case)


@pytest.mark.parametrize("layer", [0, 1])
@pytest.mark.parametrize("expert", range(8))
def test_a_flipped_bit_is_found_when_the_expert_is_first_used(
    layer: int, expert: int, reference: Reference, engine: CarefulRunner, tmp_path: Path
) -> None:
    bundle = reference.copy(tmp_path / "bundle")
    name = f"layer-{layer:02d}.packed"
    flip(find(bundle, name), 16384 * (1 + expert) + 100 * expert, bit=expert)
    outcome = engine.score(bundle)
    assert outcome.error is not None, "more tokens are needed to use every expert"
    assert (outcome.error.code, Path(outcome.error.file or "").name) == ("bundle_corrupt", name)
    # The engine stays usable: the same expert fails again, it does not run on what was read.
    if engine.run("info").error is not None:
        return  # it was met by the probe on opening: expert 0 of the first layer
    again = engine.run("score", token_ids=list(range(3, 160, 2)))
    assert again.error is not None
    assert again.error.code == "bundle_corrupt"


@pytest.mark.parametrize("token", [VOCAB, VOCAB + 1, 2**31, 2**32 - 1])
def test_ids_outside_the_vocabulary(
    token: int, reference: Reference, engine: CarefulRunner
) -> None:
    assert engine.score(reference.bundle).result == reference.scores
    for ids in ([token], [5, token, 7], [5, 6, token]):
        for command in ("score", "generate"):
            outcome = engine.run(command, token_ids=ids)
            assert outcome.error is not None
            assert (outcome.error.code, outcome.error.setting) == ("usage", "token_ids")
    # What scoring looks up in the logits, not in the embedding, is checked too; nothing broke.
    assert engine.run("score", token_ids=TOKENS).result["log_probabilities"] == reference.scores


def test_store_of_another_bundle(
    reference: Reference, engine: CarefulRunner, tmp_path: Path
) -> None:
    """The files of a store are intact, but were made from other programs."""
    bundle = reference.copy(tmp_path / "bundle")
    manifest = json.loads((bundle / "bundle.json").read_text())
    first, second = (layer["experts"] for layer in manifest["layers"])
    first["path"], second["path"] = second["path"], first["path"]
    for member in ("sha256", "programs"):
        first[member], second[member] = second[member], first[member]
    (bundle / "bundle.json").write_text(json.dumps(manifest))
    assert verify_bundle(bundle)
    consume(bundle)
    case = Corruption(".packed", {"bundle_corrupt"}, lambda bundle: None)
    expect(engine.run("verify", bundle=str(bundle)), case)
    expect(engine.score(bundle), case)


@pytest.mark.parametrize("name", [name for name in CASES if name not in PACKED])
def test_python_verifies_as_the_engine_does(
    name: str, reference: Reference, tmp_path: Path
) -> None:
    case = CASES[name]
    bundle = reference.copy(tmp_path / "bundle")
    case.apply(bundle)
    with pytest.raises(MoeMobileError) as caught:
        verify_bundle(bundle)
    assert caught.value.code in case.codes
    assert case.file in str(caught.value.file) or name.startswith("manifest-")
