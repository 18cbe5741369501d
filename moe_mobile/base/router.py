# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""How a model's routers select and weigh experts: a fact of the model, read from its bundle."""

from __future__ import annotations

from dataclasses import dataclass

from moe_mobile.errors import UsageError

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

    def __post_init__(self) -> None:
        # As they come back from a file, which numpy's numbers and arrays do not go into.
        object.__setattr__(self, "renormalize", bool(self.renormalize))
        object.__setattr__(self, "bias", tuple(tuple(map(float, row)) for row in self.bias))

    def check_bias(self, layers: int, experts: int) -> None:
        """Raises UsageError unless the bias, if there is one, is of so many layers and experts."""
        if self.bias and (len(self.bias) != layers or {len(row) for row in self.bias} != {experts}):
            raise UsageError(
                f"the bias does not have {layers} rows of {experts} numbers",
                setting="bias",
                remedy="Give one number per layer with experts and expert",
            )

    @property
    def may_select_fewer(self) -> bool:
        """Whether a token may have fewer than ``top_k`` experts."""
        return self.score == "relu"


SOFTMAX = RouterSpec()
"""Plain softmax routers."""
