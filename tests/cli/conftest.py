# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""A bundle with a tokenizer, exported once by the command line itself."""

from __future__ import annotations

import pathlib
import shutil
from collections.abc import Callable
from typing import Any

import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from tests.bundles import FEW_ROWS
from tests.cli.program import ok
from tests.tiny import write_checkpoint

END = "<end>"


def byte_tokenizer() -> Tokenizer:
    """Token ids are bytes, except 256, which ends the text."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({symbol: i for i, symbol in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(END, special=True)])
    return tokenizer


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A tiny random checkpoint with a tokenizer of bytes."""
    folder = tmp_path_factory.mktemp("checkpoint") / "tiny"
    # With its embedding as the head, a random model repeats its last token for ever.
    changes: dict[str, Any] = {"vocab_size": 260, "eos_token_id": 256, "bos_token_id": None}
    write_checkpoint(folder, "qwen3_moe", **changes, tie_word_embeddings=False)
    byte_tokenizer().save(str(folder / "tokenizer.json"))
    return folder


@pytest.fixture(scope="session")
def exported(
    checkpoint: pathlib.Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[pathlib.Path, str]:
    """A bundle made by `moe-mobile export`, and what that printed. Not to be written to."""
    out = tmp_path_factory.mktemp("exported") / "bundle"
    return out, ok("export", checkpoint, out, "--max-batch", FEW_ROWS)


@pytest.fixture(scope="session")
def bundle(
    exported: tuple[pathlib.Path, str], tmp_path_factory: pytest.TempPathFactory
) -> pathlib.Path:
    """A prepared copy. Not to be damaged."""
    copy = tmp_path_factory.mktemp("prepared") / "bundle"
    shutil.copytree(exported[0], copy)
    ok("prepare", copy)
    return copy


@pytest.fixture
def copy_bundle(
    exported: tuple[pathlib.Path, str], tmp_path: pathlib.Path
) -> Callable[[], pathlib.Path]:
    """A function that makes an unprepared copy to damage."""

    def copy() -> pathlib.Path:
        target = tmp_path / "bundle"
        shutil.copytree(exported[0], target)
        return target

    return copy
