# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""Router logits of real-size models that nobody ran.

A logit is how popular the expert is, plus a context that changes slowly, plus what is this token's
alone. How much of it lasts was fitted, for each model, to what a published plain LRU cache missed;
docs/routing/synthetic-traces.md has the formula, the rows, and what such traces cannot tell.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from moe_mobile.base.router import RouterSpec
from moe_mobile.errors import UsageError
from moe_mobile.model.presets import RandomWeights, preset_config
from moe_mobile.routing.trace import Trace, check_prompt

POPULARITY = 0.5
"""The share of what lasts that lasts for ever: a round number, not fitted."""
CONTEXT_TOKENS = 32
"""After so many tokens a context's correlation has fallen to 1/e: a round number, not fitted."""

_MAX_BYTES = 4 << 30


@dataclass(frozen=True)
class SyntheticModel:
    """A preset's routers.

    Attributes:
        name: of the preset, whose dimensions it has.
        persistence: the share of the logits' variance that outlasts a token. This is fitted.
    """

    name: str
    persistence: float

    def shape(self, layers: int | None = None) -> tuple[int, int, int, bool]:
        """MoE layers, experts, top_k, renormalize. Raises UsageError for more than it has."""
        config = preset_config(RandomWeights(self.name))
        depth = int(config["num_hidden_layers"])
        if layers is not None and not 1 <= layers <= depth:
            raise UsageError(
                f"{self.name} has {depth} layers, not {layers}",
                setting="layers",
                remedy="Give that many or fewer",
            )
        experts, top_k = int(config["num_experts"]), int(config["num_experts_per_tok"])
        return layers or depth, experts, top_k, bool(config["norm_topk_prob"])


MODELS = {
    model.name: model
    for model in (
        # Plain LRU in arXiv 2412.00099: 35 % of the slots missed, lifetime 26 tokens.
        SyntheticModel("Qwen1.5-MoE-A2.7B", persistence=0.043),
        # BigMoeOnEdge, 12 July 2026: 4000 MiB of cache, 225 of 1051 MiB read per token.
        SyntheticModel("Qwen3-30B-A3B", persistence=0.65),
    )
}
"""By name; ``benchmarks/synthetic_fit.py`` finds the same numbers again."""


def synthetic_logits(
    layers: int, experts: int, sequences: Sequence[int], persistence: float, seed: int
) -> NDArray[np.float32]:
    """Standard normal logits [tokens, layers, experts].

    A layer's are the same however many layers there are, and a sequence's first tokens however long
    it is; what is popular is so in all sequences.
    """
    logits = np.empty((sum(sequences), layers, experts), np.float32)
    popular = math.sqrt(persistence * POPULARITY)
    context = math.sqrt(persistence * (1 - POPULARITY))
    own = math.sqrt(1 - persistence)
    kept = math.exp(-1 / CONTEXT_TOKENS)
    renewed = math.sqrt(1 - kept * kept)
    for layer in range(layers):
        popularity = np.random.default_rng((seed, layer)).standard_normal(experts)
        at = 0
        for number, tokens in enumerate(sequences):
            rng = np.random.default_rng((seed, layer, number + 1))
            drawn = rng.standard_normal((tokens, 2, experts))
            state = drawn[0, 0]
            for token in range(tokens):
                if token > 0:
                    state = kept * state + renewed * drawn[token, 0]
                drawn[token, 0] = state
            part = popular * popularity + context * drawn[:, 0] + own * drawn[:, 1]
            logits[at : at + tokens, layer] = part
            at += tokens
    return logits


def synthetic_trace(
    model: SyntheticModel,
    sequences: Sequence[int],
    *,
    prompt_tokens: int = 0,
    layers: int | None = None,
    seed: int = 0,
) -> Trace:
    """A trace of these many tokens per sequence, of a model's first ``layers``.

    Its token ids are zeros: no text went in.

    Raises:
        UsageError: there are no tokens, too many, none but prompts, more layers than the model has,
            or the seed is negative.
    """
    if seed < 0:
        raise UsageError(f"{seed} is negative", setting="seed", remedy="Give 0 or more")
    depth, experts, top_k, renormalize = model.shape(layers)
    tokens = sum(sequences)
    if not sequences or min(sequences) < 1 or 4 * tokens * depth * experts > _MAX_BYTES:
        raise UsageError(
            f"{tokens} tokens in {len(sequences)} sequences are too few or too many",
            setting="tokens",
            remedy=f"Give each sequence some, and in all at most {_MAX_BYTES >> 30} GiB of logits",
        )
    check_prompt(prompt_tokens, sequences)
    return Trace(
        router_logits=synthetic_logits(depth, experts, sequences, model.persistence, seed),
        token_ids=np.zeros(tokens, np.uint32),
        sequences=tuple(sequences),
        prompt_tokens=prompt_tokens,
        layers=tuple(range(depth)),
        top_k=top_k,
        router=RouterSpec(renormalize=renormalize),
        model=f"{model.name} (synthetic)",
        source="synthetic",
        source_id=f"{model.name}, persistence {model.persistence}, seed {seed}",
        precision="float32",
    )
