# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""Runs a bundle in plain Python: ExecuTorch's own runtime for the programs, PyTorch for the rest.

An oracle for tests of the export; it shares no code with the engine.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor


class Program:
    """A loaded program; its methods are called with and return tensors of any number of rows."""

    def __init__(self, data: bytes, max_rows: int) -> None:
        from executorch.runtime import Runtime

        self._max_rows = max_rows
        self._program = Runtime.get().load_program(data)
        self._methods: dict[str, Any] = {}

    def __call__(self, method: str, *inputs: Tensor) -> list[Tensor]:
        if method not in self._methods:
            self._methods[method] = self._program.load_method(method)
        calls = []
        for rows in zip(*(torch.split(one, self._max_rows) for one in inputs), strict=True):
            outputs = self._methods[method].execute([part.contiguous() for part in rows])
            # Outputs lie in memory that the next call reuses.
            calls.append([output.clone() for output in outputs])
        return [torch.cat(parts) for parts in zip(*calls, strict=True)]


def route(moe: dict[str, Any], row: int, logits: Tensor) -> tuple[Tensor, Tensor]:
    """Weights and experts [n, top_k] of logits [n, experts], as docs/bundle-format.md says.

    ``row``: the layer's number among those with experts.
    """
    router, top_k = moe["router"], moe["top_k"]
    sigmoid = router["score"] == "sigmoid"
    kinds = {"sigmoid": Tensor.sigmoid, "relu": Tensor.relu}
    scores = kinds.get(router["score"], lambda x: x.softmax(-1))(logits)
    z = scores + torch.tensor(router["bias"][row]) if "bias" in router else scores
    runs = z.view(len(z), router.get("groups", 1), -1)
    worth = runs.topk(min(2, runs.shape[-1]) if sigmoid else 1, dim=-1).values.sum(-1)
    best = worth.topk(router.get("top_groups", 1), dim=-1).indices
    eligible = torch.zeros_like(worth, dtype=torch.bool).scatter(1, best, True)
    z = runs.masked_fill(~eligible[..., None], -torch.inf).flatten(1)
    chosen = z.topk(top_k, dim=-1).indices
    weights = scores.gather(1, chosen)
    if router["renormalize"]:
        weights = weights / (weights.sum(-1, keepdim=True) + router.get("epsilon", 0.0))
    return weights * router.get("scale", 1.0), chosen


class Interpreter:
    """A bundle loaded whole."""

    def __init__(self, bundle: Path) -> None:
        self._bundle = bundle
        self.manifest: dict[str, Any] = json.loads((bundle / "bundle.json").read_text())
        layers = self.manifest["layers"]
        self._dense = [self._load(layer["dense"]) for layer in layers]
        self._experts = [self._load_experts(layer.get("experts")) for layer in layers]
        self._head = self._load(self.manifest["head"])

    def logits(self, ids: Sequence[int]) -> Tensor:
        """Logits [len(ids), vocabulary], float32."""
        x = self.embed(ids)
        for index in range(len(self._dense)):
            x = self._layer(index, x)
        return torch.cat([self._head("forward", row[None])[0] for row in x])

    def embed(self, ids: Sequence[int]) -> Tensor:
        """Embedding rows [len(ids), hidden], float32."""
        entry = self.manifest["embedding"]
        table = np.fromfile(self._bundle / entry["path"], dtype=np.uint8)
        rows = table.reshape(-1, entry["row_bytes"])[list(ids)]
        if entry["dtype"] == "fp32":
            return torch.from_numpy(rows.view("<f4").copy())
        hidden = self.manifest["model"]["hidden_size"]
        values = rows[:, :hidden].copy().view(np.int8).astype(np.float32)
        return torch.from_numpy(values * rows[:, -4:].copy().view("<f4"))

    def _load(self, entry: dict[str, Any]) -> Program:
        return Program((self._bundle / entry["path"]).read_bytes(), self.manifest["max_batch"])

    def _load_experts(self, entry: dict[str, Any] | None) -> list[Program]:
        if entry is None:
            return []
        shard = (self._bundle / entry["path"]).read_bytes()
        rows = self.manifest["max_batch"]
        return [Program(shard[p["offset"] :][: p["bytes"]], rows) for p in entry["programs"]]

    def _layer(self, index: int, x: Tensor) -> Tensor:
        mixer = self.manifest["layers"][index]["mixer"]
        inputs = self._dense[index]("qkv", x)
        if mixer["kind"] == "convolution":
            u, c = inputs
            between = _columns_before(u, c, mixer["kernel"])
        else:
            q, k, v = inputs
            between = [self._attention(q, k, v, {**self.manifest["attention"], **mixer})]
        mixed = self._dense[index]("mix", *between, x)
        if not self._experts[index]:
            return mixed[0]
        out, h, router = mixed
        row = sum(bool(experts) for experts in self._experts[:index])
        weights, chosen = route(self.manifest["moe"], row, router)
        for expert, program in enumerate(self._experts[index]):
            rows, ranks = (chosen == expert).nonzero(as_tuple=True)
            if len(rows):
                y = program("forward", h[rows])[0]
                out.index_add_(0, rows, y * weights[rows, ranks, None])
        return out

    def _attention(self, q: Tensor, k: Tensor, v: Tensor, spec: dict[str, Any]) -> Tensor:
        window = spec["window"]
        heads, kv_heads, width = spec["num_heads"], spec["num_kv_heads"], spec["head_dim"]
        count, group = len(q), heads // kv_heads
        q = _rotate(q.view(count, heads, width), spec["rope"])
        k = _rotate(k.view(count, kv_heads, width), spec["rope"]).repeat_interleave(group, 1)
        v = v.view(count, kv_heads, width).repeat_interleave(group, 1)
        scores = torch.einsum("qhd,khd->hqk", q, k) * spec["scale"]
        distance = torch.arange(count)[:, None] - torch.arange(count)[None]
        seen = (distance >= 0) & ((distance < window) | (window == 0))
        weights = scores.masked_fill(~seen, -torch.inf).softmax(-1)
        return torch.einsum("hqk,khd->qhd", weights, v).reshape(count, heads * width)


def _rotate(x: Tensor, rope: dict[str, Any]) -> Tensor:
    half = len(rope["inverse_frequencies"])
    positions = torch.arange(len(x), dtype=torch.float32)
    angles = positions[:, None] * torch.tensor(rope["inverse_frequencies"])
    sine = (angles.sin() * rope["amplitude"])[:, None]
    cosine = (angles.cos() * rope["amplitude"])[:, None]
    first, second, rest = x[..., :half], x[..., half : 2 * half], x[..., 2 * half :]
    rotated = (first * cosine - second * sine, second * cosine + first * sine, rest)
    return torch.cat(rotated, dim=-1)


def _columns_before(u: Tensor, gate: Tensor, kernel: int) -> list[Tensor]:
    """u of kernel - 1 positions before, ..., of the position itself, and the gate."""
    padded = torch.cat([torch.zeros(kernel - 1, u.shape[1]), u])
    return [*(padded[i : i + len(u)] for i in range(kernel)), gate]
