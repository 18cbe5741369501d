# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""Everything the model card states about a finished run, measured on the exported checkpoint."""

from __future__ import annotations

import json
import pathlib
import re
import shutil
import time
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer

from benchmarks.demo_training import checkpoint, tokenizer
from benchmarks.demo_training.corpora import DOMAINS, sha256_of
from benchmarks.demo_training.evaluate import perplexity_and_usage
from benchmarks.demo_training.trigram import Floats, KneserNey

SAMPLE_DOMAINS = ("bible", "novels")
"""Domains of public-domain text, from whose held-out documents the shipped sample is cut."""

SAMPLE_BYTES = 60_000

SHIPPED_FILES = ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json")


def heldout_sample(work: pathlib.Path) -> str:
    """About :data:`SAMPLE_BYTES` of held-out public-domain text, equal parts of each domain.

    Whole documents in their fixed order, the last one of a domain cut after a full line.
    """
    parts: list[str] = []
    for domain in SAMPLE_DOMAINS:
        text = "\n\n".join(tokenizer.read_documents(work, domain, "held"))
        budget = SAMPLE_BYTES // len(SAMPLE_DOMAINS)
        cut = text.encode()[:budget].decode("utf-8", "ignore")
        parts.append(cut[: cut.rindex("\n") + 1])
    return "\n".join(parts)


def sample_ids(text: str, tokenizer_json: pathlib.Path) -> torch.Tensor:
    """Token ids of ``text`` after one end-of-text token, int64 ``[tokens]``."""
    encoding = Tokenizer.from_file(str(tokenizer_json)).encode(text)
    return torch.tensor([0, *encoding.ids])


def _log_facts(log: str) -> dict[str, Any]:
    """Wall time and speed of a run out of its log."""
    starts = re.findall(r"^([0-9-]+ [0-9:]+) from step (\d+): (.*)$", log, re.MULTILINE)
    finished = re.findall(r"^([0-9-]+ [0-9:]+) done$", log, re.MULTILINE)
    facts: dict[str, Any] = {"sessions": len(starts), **json.loads(starts[-1][2])}
    facts["tokens_per_second"] = [int(s) for s in re.findall(r" (\d+) tokens/s ", log)][-1]
    if len(starts) == 1 and finished:
        begin, end = (
            time.mktime(time.strptime(text, "%Y-%m-%d %H:%M:%S"))
            for text in (starts[0][0], finished[-1])
        )
        facts["minutes"] = round((end - begin) / 60)
    return facts


def measure(work: pathlib.Path, name: str) -> dict[str, Any]:
    """Evaluate the checkpoint of run ``name`` on all held-out text; see the keys below.

    ``domains``: per domain token counts, ``perplexity``, ``kneser_ney`` and ``ratio``; ``usage``:
    per domain the counts ``[layers][experts]``; ``sample``: the shipped text and its perplexity;
    ``run``: facts out of the log; ``sha256``: of the files made; ``manifest``: of the text.
    """
    out = work / name
    folder = out / "checkpoint"
    model = checkpoint.load_exported(folder)
    length = model.shape.context
    train = {d.name: tokenizer.load_tokens(work, d.name, "train") for d in DOMAINS}
    yardstick = KneserNey(train.values(), model.shape.vocabulary)
    domains: dict[str, Any] = {}
    usage: dict[str, Any] = {}
    for domain in DOMAINS:
        held = tokenizer.load_tokens(work, domain.name, "held")
        perplexity, counts = perplexity_and_usage(model, torch.from_numpy(held), length)
        trigram = yardstick.perplexity(held, length)
        domains[domain.name] = {
            "train_tokens": len(train[domain.name]),
            "held_tokens": len(held) // length * length,
            "perplexity": perplexity,
            "kneser_ney": trigram,
            "ratio": perplexity / trigram,
        }
        usage[domain.name] = counts.tolist()
    text = heldout_sample(work)
    ids = sample_ids(text, folder / "tokenizer.json")
    facts = {
        "parameters": sum(p.numel() for p in model.parameters()),
        "domains": domains,
        "usage": usage,
        "sample": {
            "bytes": len(text.encode()),
            "tokens": len(ids),
            "perplexity": perplexity_and_usage(model, ids, length)[0],
        },
        "run": _log_facts((out / "log.txt").read_text("utf-8")),
        "sha256": {
            name: sha256_of(folder / name) for name in ("model.safetensors", "tokenizer.json")
        },
        "manifest": json.loads((work / "text" / "manifest.json").read_text("utf-8")),
    }
    (out / "results.json").write_text(json.dumps(facts, indent=1) + "\n", "utf-8")
    return facts


def shares(usage: dict[str, Any]) -> Floats:
    """Use of every expert as a multiple of its fair share, ``[domains, layers, experts]``."""
    counts = np.array([usage[domain.name] for domain in DOMAINS], dtype=np.float64)
    multiples: Floats = counts / counts.mean(2, keepdims=True)
    return multiples


def ship(work: pathlib.Path, name: str, target: pathlib.Path, card: str) -> int:
    """Copy the checkpoint, the held-out sample and the card to ``target``; returns their bytes."""
    target.mkdir(parents=True, exist_ok=True)
    for file in SHIPPED_FILES:
        shutil.copyfile(work / name / "checkpoint" / file, target / file)
    (target / "heldout.txt").write_text(heldout_sample(work), "utf-8")
    (target / "README.md").write_text(card, "utf-8")
    return sum(path.stat().st_size for path in target.iterdir())
