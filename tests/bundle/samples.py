# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""Valid manifests with files of random bytes: bundles to every reader that runs no program."""

from __future__ import annotations

import hashlib
from pathlib import Path
from random import Random

from moe_mobile.base.router import SCORES, RouterSpec
from moe_mobile.bundle import manifest as m
from moe_mobile.bundle.quantization import QUANTS
from moe_mobile.bundle.writer import to_bytes

Sample = tuple[m.Manifest, dict[str, bytes]]


def sample(seed: int) -> Sample:
    """A random valid manifest and the files it lists."""
    draw = Random(seed)
    files: dict[str, bytes] = {}

    def file(path: str, content: bytes) -> m.File:
        files[path] = content
        return m.File(path, len(content), hashlib.sha256(content).hexdigest())

    def delegate() -> str | None:
        return draw.choice((None, *m.DELEGATES))

    def program(path: str) -> m.DenseProgram:
        entry = file(path, draw.randbytes(draw.randint(1, 200)))
        return m.DenseProgram(entry.path, entry.bytes, entry.sha256, delegate())

    vocab, hidden = draw.randint(1, 40), draw.randint(1, 30)
    experts = draw.randint(1, 5)
    quants = [draw.choice(QUANTS) for _ in range(3)]
    further = [quant for quant in QUANTS if quant != quants[0]]
    variants = draw.sample(further, draw.choice((0, 0, 1)))
    layers = []
    for index in range(draw.randint(1, 4)):
        dense = program(f"dense/layer-{index:02d}.pte")
        shard = None
        if draw.random() < 0.7:
            content, programs = _shard(draw, experts)
            entry = file(f"experts/layer-{index:02d}.shard", content)
            shards = []
            for quant in variants:
                content, other_programs = _shard(draw, experts)
                other = file(f"experts/layer-{index:02d}.{quant}.shard", content)
                shards.append(
                    m.Variant(
                        **vars(other),
                        programs=other_programs,
                        delegate=delegate(),
                        quantization=quant,
                        group_size=128 if quant == "8da4w" else None,
                    )
                )
            shard = m.Experts(
                **vars(entry), programs=programs, delegate=delegate(), variants=tuple(shards)
            )
        layers.append(m.Layer(_mixer(draw), dense, shard))
    head = program("dense/head.pte")
    dtype = draw.choice(("fp32", "int8"))
    row = 4 * hidden if dtype == "fp32" else (hidden + 3) // 4 * 4 + 4
    table = file("embedding.bin", draw.randbytes(vocab * row))
    embedding = m.Embedding(table.path, table.bytes, table.sha256, dtype, row)
    others = tuple(file(f"file-{i}.json", draw.randbytes(i)) for i in range(draw.randint(0, 3)))
    kv_heads, head_dim = draw.randint(1, 4), draw.randint(1, 64)
    top_k = draw.randint(1, experts)
    manifest = m.Manifest(
        model=m.Model(
            name="Näme 模型",
            family="sample",
            vocab_size=vocab,
            hidden_size=hidden,
            num_layers=len(layers),
            context_length=draw.randint(1, 2**24),
            bos_token_id=draw.choice((None, draw.randrange(vocab))),
            eos_token_ids=tuple(sorted(draw.sample(range(vocab), min(vocab, draw.randint(0, 3))))),
            num_parameters=draw.randint(0, 2**53),
            dense_intermediate_size=draw.randint(0, 2**24),
        ),
        attention=m.Attention(
            num_heads=kv_heads * draw.randint(1, 4),
            num_kv_heads=kv_heads,
            head_dim=head_dim,
            scale=draw.uniform(1e-6, 1e6),
            rope=m.Rope(
                tuple(draw.uniform(-1, 1) for _ in range(draw.randint(0, head_dim // 2))),
                draw.uniform(-2, 2),
            ),
            kv_dtype=draw.choice(("float16", "float32")),
        ),
        moe=m.Moe(experts, top_k, draw.randint(1, 2**24), _router(draw, layers, experts, top_k)),
        quantization=m.Quantization(
            experts=quants[0],
            dense=quants[1],
            head=quants[2],
            embedding=dtype,
            group_size=draw.choice((32, 64, 128, 256)) if "8da4w" in quants else 0,
        ),
        delegate=m.Delegate(draw.choice(m.DELEGATES), "1.5.1"),
        max_batch=draw.randint(1, 4096),
        embedding=embedding,
        layers=tuple(layers),
        head=head,
        files=others,
        memory=m.memory_facts(layers=tuple(layers), head=head, embedding=embedding, top_k=top_k),
        provenance={"source": "sample", "any": [1, {"thing": None}]},
    )
    return manifest, files


def _router(draw: Random, layers: list[m.Layer], experts: int, top_k: int) -> RouterSpec:
    score, renormalize = draw.choice(SCORES), draw.random() < 0.5
    groups = draw.choice([n for n in range(1, experts + 1) if experts % n == 0])
    fewest = -(-top_k // (experts // groups))
    rows = [layer for layer in layers if layer.experts is not None]
    has_bias = score == "sigmoid" and draw.random() < 0.5
    return RouterSpec(
        score=score,
        renormalize=renormalize,
        scale=draw.choice((1.0, 2.5)),
        epsilon=draw.choice((0.0, 1e-20, 1e-6)) if renormalize else 0.0,
        groups=groups,
        top_groups=draw.randint(fewest, groups),
        bias=tuple(tuple(draw.uniform(-1, 1) for _ in range(experts)) for _ in rows)
        if has_bias
        else (),
    )


def _mixer(draw: Random) -> m.Mixer:
    kind = draw.randrange(3)
    if kind == 0:
        return m.ConvolutionMixer(draw.randint(2, 16), draw.randint(1, 2**20))
    window = draw.choice((0, 1, 4096, 2**32 - 1))
    if kind == 1:
        return m.AttentionMixer(window)
    kv_heads = draw.randint(1, 4)
    return m.AttentionMixer(
        window,
        num_heads=kv_heads * draw.randint(1, 4),
        num_kv_heads=kv_heads,
        head_dim=draw.randint(64, 128),
        scale=draw.choice((None, 0.5)),
        rope=draw.choice((None, m.Rope((1.0, 0.5), 1.0))),
    )


def _shard(draw: Random, experts: int) -> tuple[bytes, tuple[m.Program, ...]]:
    content, programs = b"", []
    for _ in range(experts):
        content += bytes(-len(content) % m.ALIGNMENT)
        body = draw.randbytes(draw.choice((1, 500, m.ALIGNMENT, m.ALIGNMENT + 3)))
        digest = hashlib.sha256(body).hexdigest()
        programs.append(m.Program(len(content), len(body), digest))
        content += body
    return content + bytes(-len(content) % m.ALIGNMENT), tuple(programs)


def write_sample(folder: Path, seed: int) -> Sample:
    """Writes the sample as a bundle into ``folder``."""
    manifest, files = sample(seed)
    for path, content in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(content)
    (folder / m.MANIFEST_FILE).write_bytes(to_bytes(manifest))
    return manifest, files
