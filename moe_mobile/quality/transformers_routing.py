# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""Models of transformers whose experts are chosen by routing and cache, as the engine's are."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch

from moe_mobile.base.progress import Progress, silent
from moe_mobile.base.router import RouterSpec
from moe_mobile.errors import RuntimeFailedError
from moe_mobile.routing.facts import MoeFacts
from moe_mobile.routing.run import RoutingRun
from moe_mobile.routing.transformers_model import find_routers

_HEAD_ROWS = 256  # tokens whose logits over the vocabulary are in memory at once
_CACHE, _PAST = "cache", "past_key_values"  # the newer and the older name of an argument


class RoutedModel:
    """A causal language model, one sequence at a time.

    Use :meth:`sequence` for each. If every layer has a cache of its own, what a layer decides
    depends on its own logits alone: those of many tokens are routed one after the other while the
    model computes them together, layer by layer, and the layers above see the outcome. These are
    decoding's decisions at a prompt's speed. If layers share a cache, each token asks it in
    layer after layer, and tokens go through the model one by one.
    """

    def __init__(self, model: Any, run: RoutingRun, facts: MoeFacts, *, shared: bool) -> None:
        """``shared``: layers share a cache, or tokens are to go one by one for another reason."""
        self._model, self._run = model, run
        self._router, self._shared = facts.router, shared
        self._layers = facts.layers
        self._routers = find_routers(model, facts.layers)
        self._prompt = 0
        self._done: Callable[[int], None] | None = None
        self._past: Any = None

    @contextlib.contextmanager
    def sequence(self, *, keep: bool = True) -> Iterator[None]:
        """Begin a sequence: without a past, with the initial cache. ``keep``: keys and values, for
        a second :meth:`forward`."""
        from transformers import DynamicCache

        self._run.reset()
        self._past = DynamicCache(config=self._model.config) if keep or self._shared else None
        hooks = [
            router.register_forward_hook(self._hook(index))
            for index, router in enumerate(self._routers.values())
        ]
        try:
            with torch.inference_mode():
                yield
        finally:
            self._past = None
            for hook in hooks:
                hook.remove()

    def forward(
        self,
        token_ids: Sequence[int],
        *,
        prompt: int = 0,
        progress: Progress = silent,
    ) -> torch.Tensor:
        """The sequence's next tokens; their hidden states [tokens, hidden size] before the head.

        ``prompt``: so many first ones are of the prompt, and routed exactly.
        """
        if not self._shared:
            layers = len(self._routers)
            self._done = lambda index: progress("score", index + 1, layers)
            return self._together(token_ids, prompt)
        rows = []
        for at, token in enumerate(token_ids):
            rows.append(self._together([token], int(at < prompt)))
            progress("score", at + 1, len(token_ids))
        return torch.cat(rows)

    def log_probabilities(self, hidden: torch.Tensor, token_ids: Sequence[int]) -> torch.Tensor:
        """float64 on the CPU: of each token, after the hidden state of the one before it."""
        targets = torch.tensor(list(token_ids), device=hidden.device)
        parts = []
        for at in range(0, len(targets), _HEAD_ROWS):
            logits = self.logits(hidden[at : at + _HEAD_ROWS])
            chosen = logits.gather(1, targets[at : at + _HEAD_ROWS, None])[:, 0]
            parts.append((chosen - logits.logsumexp(1)).double().cpu())
        return torch.cat(parts)

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """float32 [tokens, vocabulary] after these hidden states. Raises RuntimeFailedError if one
        is NaN or infinite, as :meth:`forward` does for a router's."""
        logits: torch.Tensor = self._model.get_output_embeddings()(hidden).float()
        self._require_finite(logits, "logit of a token")
        return logits

    def _require_finite(self, logits: torch.Tensor, what: str) -> None:
        if not logits.isfinite().all():
            raise RuntimeFailedError(
                f"a {what} is NaN or infinite",
                file=self._model.name_or_path or None,
                remedy="The weights or activations overflow: with a smaller `dtype` than float32, "
                "take that; otherwise the checkpoint itself is broken",
            )

    def _together(self, token_ids: Sequence[int], prompt: int) -> torch.Tensor:
        self._prompt = prompt
        base = self._model.base_model
        name = _CACHE if _CACHE in inspect.signature(base.forward).parameters else _PAST
        ids = torch.tensor([list(token_ids)], device=self._model.device)
        output = base(ids, use_cache=self._past is not None, **{name: self._past})
        hidden: torch.Tensor = output.last_hidden_state[0]
        return hidden

    def _hook(self, index: int) -> Any:
        def route(module: Any, inputs: Any, output: Any) -> Any:
            logits, weights, chosen = output
            self._require_finite(logits, f"router's logit of layer {self._layers[index]}")
            rows, split = logits.float().cpu().numpy(), min(self._prompt, len(logits))
            parts = []
            if split:
                parts.append(self._run.route(index, rows[:split], prompt=True))
            if split < len(rows):
                parts.append(self._run.route(index, rows[split:]))
            selected, dropped = (
                torch.cat([torch.from_numpy(array) for array in arrays]).to(logits.device)
                for arrays in zip(*((part.selected, part.dropped) for part in parts), strict=True)
            )
            if self._done is not None:
                self._done(index)
            selected = selected.to(chosen.dtype)
            mine = gate_weights(logits, selected, dropped, self._router)
            return logits, mine.to(weights.dtype), selected

        return route


def gate_weights(
    logits: torch.Tensor, selected: torch.Tensor, dropped: torch.Tensor, router: RouterSpec
) -> torch.Tensor:
    """float32 weights of the selected experts [tokens, top_k], from the original logits.

    Softmax over all experts or their sigmoids, divided by their sum if the model does that, and
    scaled. Those of dropped experts go to the others, in proportion. If all underflow they stay
    zeros.
    """
    logits = logits.float()
    scores = logits.sigmoid() if router.score == "sigmoid" else logits.softmax(-1)
    weights = scores.gather(1, selected.long())
    if router.renormalize:
        weights = weights / (_sums(weights) + router.epsilon)
    kept = weights.masked_fill(dropped, 0.0)
    return router.scale * kept * (_sums(weights) / _sums(kept))


def _sums(weights: torch.Tensor) -> torch.Tensor:
    """Of each row; 1 if it is 0, to divide by."""
    sums = weights.sum(-1, keepdim=True)
    return torch.where(sums == 0, 1.0, sums)
