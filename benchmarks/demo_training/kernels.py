# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""Two differentiable kernels that make training on a CPU affordable.

Both are plain matrix products around hand-written gradients: one for a layer of experts (tokens
sorted by expert, one product per expert), one for the tied output head with cross-entropy (in
chunks, so the logits of a whole step never exist at once).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


class _Experts(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, chosen: Tensor, weight: Tensor, gate_up: Tensor, down: Tensor
    ) -> Tensor:
        tokens, hidden = x.shape
        active = chosen.shape[1]
        experts, width = gate_up.shape[0], down.shape[1]
        flat = chosen.reshape(-1)
        order = torch.argsort(flat, stable=True)
        token = order // active
        ends = torch.cumsum(torch.bincount(flat, minlength=experts), 0).tolist()
        spans = [(a, b) for a, b in zip([0, *ends], ends, strict=False)]
        xs = x.index_select(0, token)
        ws = weight.reshape(-1).index_select(0, order).unsqueeze(1)
        gu = x.new_empty(tokens * active, 2 * width)
        for e, (a, b) in enumerate(spans):
            if b > a:
                torch.mm(xs[a:b], gate_up[e], out=gu[a:b])
        inner = torch.nn.functional.silu(gu[:, :width]).mul_(gu[:, width:]).mul_(ws)
        ys = x.new_empty(tokens * active, hidden)
        for e, (a, b) in enumerate(spans):
            if b > a:
                torch.mm(inner[a:b], down[e], out=ys[a:b])
        place = torch.empty_like(order)
        place[order] = torch.arange(tokens * active, device=x.device)
        ctx.save_for_backward(xs, gu, ws, gate_up, down, token, place)
        ctx.spans = spans
        ctx.active = active
        return ys.index_select(0, place).view(tokens, active, hidden).sum(1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dout: Tensor) -> tuple[Tensor | None, ...]:
        xs, gu, ws, gate_up, down, token, place = ctx.saved_tensors
        width = down.shape[1]
        dys = dout.index_select(0, token)
        gate, up = gu[:, :width], gu[:, width:]
        sig = torch.sigmoid(gate)
        silu = gate * sig
        inner = silu * up
        scaled = inner * ws
        dscaled = torch.empty_like(inner)
        ddown = torch.zeros_like(down)
        for e, (a, b) in enumerate(ctx.spans):
            if b > a:
                torch.mm(dys[a:b], down[e].t(), out=dscaled[a:b])
                torch.mm(scaled[a:b].t(), dys[a:b], out=ddown[e])
        dws = (dscaled * inner).sum(1)
        dinner = dscaled.mul_(ws)
        dgu = torch.empty_like(gu)
        torch.mul(dinner, silu, out=dgu[:, width:])
        torch.mul(dinner.mul_(up), sig + silu * (1 - sig), out=dgu[:, :width])
        dxs = dys
        dgate_up = torch.zeros_like(gate_up)
        for e, (a, b) in enumerate(ctx.spans):
            if b > a:
                torch.mm(dgu[a:b], gate_up[e].t(), out=dxs[a:b])
                torch.mm(xs[a:b].t(), dgu[a:b], out=dgate_up[e])
        tokens, hidden = dout.shape
        dx = dxs.index_select(0, place).view(tokens, ctx.active, hidden).sum(1)
        return dx, None, dws.index_select(0, place).view(tokens, ctx.active), dgate_up, ddown


def experts(x: Tensor, chosen: Tensor, weight: Tensor, gate_up: Tensor, down: Tensor) -> Tensor:
    """Weighted sum of the chosen SwiGLU experts of every token.

    ``x`` is ``[tokens, hidden]``, ``chosen`` (int64) and ``weight`` are ``[tokens, active]``,
    ``gate_up`` is ``[experts, hidden, 2 * width]`` (gate first), ``down`` is
    ``[experts, width, hidden]``. Returns ``[tokens, hidden]``.
    """
    out: Tensor = _Experts.apply(x, chosen, weight, gate_up, down)  # type: ignore[no-untyped-call]
    return out


class _TiedLoss(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, embedding: Tensor, target: Tensor, chunk: int) -> Tensor:
        count = x.shape[0]
        dx = torch.empty_like(x)
        dembedding = torch.zeros_like(embedding)
        loss = x.new_zeros(())
        for a in range(0, count, chunk):
            part, wanted = x[a : a + chunk], target[a : a + chunk, None]
            log_p = torch.log_softmax(part @ embedding.t(), 1)
            loss -= log_p.gather(1, wanted).sum()
            dlogits = log_p.exp_()
            dlogits.scatter_(1, wanted, dlogits.gather(1, wanted) - 1)
            torch.mm(dlogits, embedding, out=dx[a : a + chunk])
            dembedding.addmm_(dlogits.t(), part)
        ctx.save_for_backward(dx, dembedding)
        ctx.count = count
        return loss / count

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dloss: Tensor) -> tuple[Tensor | None, ...]:
        dx, dembedding = ctx.saved_tensors
        scale = dloss / ctx.count
        return dx * scale, dembedding * scale, None, None


def tied_loss(x: Tensor, embedding: Tensor, target: Tensor, chunk: int = 2048) -> Tensor:
    """Mean cross-entropy, in nats, of the tied output head.

    ``x`` is ``[tokens, hidden]``, ``embedding`` is ``[vocabulary, hidden]``, ``target`` (int64) is
    ``[tokens]``. The gradient is computed in the forward pass, ``chunk`` tokens at a time.
    """
    out: Tensor = _TiedLoss.apply(x, embedding, target, chunk)  # type: ignore[no-untyped-call]
    return out
