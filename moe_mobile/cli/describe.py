# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""A bundle in words, from what `moe_mobile.bundle.inspect_bundle` says of it."""

from __future__ import annotations

from moe_mobile.base.json_field import Json
from moe_mobile.base.text import count, size
from moe_mobile.bundle.manifest import PACKED_DELEGATE, Manifest

# What XNNPACK's layout adds to shards and to dense programs, and what each method of these takes
# for its index and for alignment, as measured: docs/findings/full-size.md.
_PACKED_SHARDS, _PACKED_DENSE, _METHOD_BYTES = 1.01, 1.02, 48 << 10


def packed_bytes(manifest: Manifest) -> int:
    """What `prepare` will write, about."""
    dense = [p.bytes for p in manifest.dense_programs if manifest.delegate_of(p) == PACKED_DELEGATE]
    methods = 2 * len(dense)  # the head has one
    written = _PACKED_DENSE * sum(dense) + _METHOD_BYTES * methods
    if manifest.packs_experts:
        shards = [shard.bytes for layer in manifest.layers for shard in layer.shards]
        # And an expert of each precision as it is: the slots' template.
        written += _PACKED_SHARDS * sum(shards)
        written += manifest.memory.expert_bytes * len(manifest.precisions)
    return round(written)


def summary(facts: Json) -> str:
    """The lines that `inspect` and `export` print."""
    each = "at most " * (len(facts["expert_precisions"]) > 1)
    model, moe, memory = facts["model"], facts["moe"], facts["memory"]
    attention, quantization = facts["attention"], facts["quantization"]
    experts = moe["layers"] * moe["num_experts"] * len(facts["expert_precisions"])
    group = quantization["group_size"]
    kv = facts["kv_bytes_per_token"]
    least = memory["dense_bytes"] + memory["token_cycle_bytes"]
    windows = [str(window) for window in facts["windows"] if window]
    rows = [
        ("bundle", facts["path"]),
        ("model", f"{model['name']} ({model['family']}), {count(model['num_parameters'])} params"),
        (
            "layers",
            f"{model['num_layers']}, of which {moe['layers']} with {moe['num_experts']} experts, "
            f"{moe['top_k']} used per token"
            + (f"; {facts['convolutions']} with a convolution" if facts["convolutions"] else ""),
        ),
        (
            "dimensions",
            f"hidden {model['hidden_size']}, expert {moe['intermediate_size']}, "
            f"{attention['num_heads']} heads of {attention['head_dim']} "
            f"({attention['num_kv_heads']} for keys and values), vocabulary {model['vocab_size']}",
        ),
        (
            "context",
            f"{model['context_length']} tokens"
            + (f", sliding windows of {', '.join(windows)}" if windows else ""),
        ),
        (
            "quantization",
            f"{quantization['name']}: experts {' and '.join(facts['expert_precisions'])}, "
            f"dense {quantization['dense']}, "
            f"head {quantization['head']}, embedding {quantization['embedding']}"
            + (f", groups of {group}" if group else ""),
        ),
        (
            "programs",
            f"{experts} experts and {model['num_layers'] + 1} dense, for "
            f"{_delegates(facts['delegate'])} of ExecuTorch {facts['delegate']['executorch']}, "
            f"up to {facts['max_batch']} rows",
        ),
        (
            "size",
            f"{size(facts['bytes'])}: experts {size(memory['experts_bytes'])} "
            f"({each}{size(memory['expert_bytes'])} each), dense {size(memory['dense_bytes'])}, "
            f"embedding {size(memory['embedding_bytes'])}",
        ),
        (
            "memory",
            f"at least {size(least, 'up')} of weights: dense, and the experts of one token "
            f"({size(memory['token_cycle_bytes'], 'up')}); "
            f"{size(kv * 1024)} more per 1024 tokens of context",
        ),
        ("hash", facts["hash"]),
    ]
    if "packed" in facts:
        stores = [
            f"{store['key']} ({size(store['bytes'])})"
            + (f", refused: {store['refused']}" if store["refused"] else "")
            for store in facts["packed"]
        ]
        rows.append(("prepared", "; ".join(stores) or "no; opening it prepares it"))
        if facts["consumed_shards"]:
            rows.append(("consumed", f"{facts['consumed_shards']} shards live in that store only"))
    return "\n".join(f"{name:<13} {text}" for name, text in rows)


def _delegates(delegate: Json) -> str:
    dense, experts = (", ".join(delegate[programs]) for programs in ("dense", "experts"))
    return dense if dense == experts or not experts else f"{dense} (dense) and {experts} (experts)"
