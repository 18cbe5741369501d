# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""The byte-level BPE tokenizer and the token streams made with it."""

from __future__ import annotations

import json
import pathlib
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from benchmarks.demo_training.corpora import DOMAINS

VOCABULARY = 4096
END_OF_TEXT = "<|endoftext|>"
"""Token 0: put before every document; also the model's beginning- and end-of-sequence token."""

HELD_TOKENS = 48 * 1024
"""Most held-out tokens kept per domain."""


def read_documents(work: pathlib.Path, domain: str, part: str) -> list[str]:
    """Documents of ``part`` (``train`` or ``held``) of a domain, in their fixed order."""
    documents: list[str] = json.loads((work / "text" / f"{domain}.{part}.json").read_text("utf-8"))
    return documents


def train_tokenizer(work: pathlib.Path) -> Tokenizer:
    """Byte-level BPE of :data:`VOCABULARY` tokens from the training text of all domains."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )

    def texts() -> Iterator[str]:
        for domain in DOMAINS:
            yield from read_documents(work, domain.name, "train")

    tokenizer.train_from_iterator(texts(), trainer)
    return tokenizer


def tokenize(work: pathlib.Path) -> dict[str, dict[str, int]]:
    """Train the tokenizer and write ``work/tokens``; returns token counts per domain and part.

    Writes ``tokenizer.json`` and, per domain, ``<domain>.<train|held>.bin``: little-endian uint16
    token ids, every document preceded by token 0.
    """
    out = work / "tokens"
    out.mkdir(parents=True, exist_ok=True)
    tokenizer = train_tokenizer(work)
    tokenizer.save(str(out / "tokenizer.json"))
    counts: dict[str, dict[str, int]] = {}
    for domain in DOMAINS:
        counts[domain.name] = {}
        for part in ("train", "held"):
            ids: list[int] = []
            for encoding in tokenizer.encode_batch(read_documents(work, domain.name, part)):
                ids.append(0)
                ids.extend(encoding.ids)
            if part == "held":
                ids = ids[:HELD_TOKENS]
            np.array(ids, dtype="<u2").tofile(out / f"{domain.name}.{part}.bin")
            counts[domain.name][part] = len(ids)
    return counts


def load_tokens(work: pathlib.Path, domain: str, part: str) -> npt.NDArray[np.int64]:
    """Token stream of a domain, shape ``[tokens]``."""
    return np.fromfile(work / "tokens" / f"{domain}.{part}.bin", dtype="<u2").astype(np.int64)
