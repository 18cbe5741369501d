# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""How a model's routers select and weigh experts: a fact of the model, read from its bundle."""

from __future__ import annotations

from dataclasses import dataclass

SCORES = ("softmax", "sigmoid", "relu")


@dataclass(frozen=True)
class RouterSpec:
    """The members of ``moe.router`` in ``bundle.json``; docs/bundle-format.md has the formulas.

    Attributes:
        score: ``softmax`` sorts logits and weighs with their softmax over all experts;
            ``sigmoid`` (DeepSeek-V3, arXiv 2412.19437) sorts sigmoids plus ``bias`` and weighs
            with the sigmoids; ``relu`` (ReMoE, arXiv 2412.14711) sorts logits and weighs with
            those above 0, so a token has at most ``top_k`` experts, possibly none.
        renormalize: divide the selected weights by their sum + ``epsilon``.
        scale: factor of all weights, after renormalising.
        epsilon: see ``renormalize``.
        groups: number of equal runs of experts, of which only the best ``top_groups`` are
            eligible. A group is as good as its best expert, or with ``sigmoid`` as the sum of its
            two best.
        top_groups: see ``groups``.
        bias: [layers with experts][experts], added for sorting only; empty: none.
    """

    score: str = "softmax"
    renormalize: bool = False
    scale: float = 1.0
    epsilon: float = 0.0
    groups: int = 1
    top_groups: int = 1
    bias: tuple[tuple[float, ...], ...] = ()

    @property
    def may_select_fewer(self) -> bool:
        """Whether a token may have fewer than ``top_k`` experts."""
        return self.score == "relu"
