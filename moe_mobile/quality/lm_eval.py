# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""lm-evaluation-harness over a checkpoint whose routing knows the cache. Needs ``lm_eval``.

``python -m moe_mobile.cli.lm_eval run --model moe-mobile --model_args checkpoint=...`` is the
harness's own command line with one more model; docs/routing/quality.md has examples.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

import torch
from tqdm import tqdm

from moe_mobile.base.routings import is_lossy
from moe_mobile.errors import UnsupportedError, UsageError
from moe_mobile.quality.score import Cache, open_run
from moe_mobile.quality.transformers_routing import RoutedModel
from moe_mobile.routing.arguments import choice
from moe_mobile.routing.capacity import parse_capacity
from moe_mobile.routing.transformers_model import (
    checked_context,
    find_device,
    load_model,
    open_checkpoint,
)

try:
    from lm_eval.api.model import TemplateLM
    from lm_eval.api.registry import register_model
    from lm_eval.utils import get_rolling_token_windows, make_disjoint_window
except ImportError:
    raise UnsupportedError(
        "lm-evaluation-harness is not installed",
        remedy="Install it: pip install 'moe-mobile[lm-eval]', or pip install lm_eval",
    ) from None

_BATCHES = {"batch_size", "max_batch_size"}
_TOKENS = 256  # to generate if a task does not say
_PARTS = 64  # tokens of a long answer whose text is looked through for its end


@dataclass(frozen=True)
class Decoding:
    """How answers are decoded.

    Attributes:
        routing: as docs/routing/README.md writes it.
        capacity: a share of the experts, or experts per layer, as the lab takes it.
        pool: ``layer`` or ``global``; the latter computes prompts token by token too.
        eviction: ``lru``, ``lfu`` or ``lfu:DECAY``.
        prompt: ``exact``: what is given is routed exactly, as the engine does, and what the model
            answers is decoded, with what the prompt left in the cache. ``decoded``: everything is,
            from an empty cache. With the former an answer of one token costs nothing: it follows
            from the prompt alone.

    Raises UsageError for an unknown ``prompt``.
    """

    routing: str = "exact"
    capacity: str | int = "50%"
    pool: str = "layer"
    eviction: str = "lru"
    prompt: str = "exact"

    def __post_init__(self) -> None:
        choice("prompt", self.prompt, ("exact", "decoded"))

    @classmethod
    def of(cls, arguments: Mapping[str, Any]) -> Decoding:
        """The harness's arguments; those that are not members are options of the routing."""
        known = {field.name for field in fields(cls)}
        members = {name: value for name, value in arguments.items() if name in known}
        options = [
            f",{name}={value}" for name, value in arguments.items() if name not in known | _BATCHES
        ]
        decoding = cls(**members)
        return replace(decoding, routing="".join([decoding.routing, *options]))


@register_model("moe-mobile")  # type: ignore[untyped-decorator, unused-ignore]
class MoeMobileLM(TemplateLM):  # type: ignore[misc, unused-ignore]
    """One request at a time, each a sequence of its own, which begins with an empty cache.

    Args:
        checkpoint: a folder, a Hugging Face id or "demo".
        dtype, device, context: as ``--dtype``, ``--torch-device`` and ``--context``; without a GPU
            the device is the CPU.
        decoding: members of :class:`Decoding`. The harness splits its arguments at commas:
            ``routing=cache-prior:0.2,J=2,first=1+drop-cold:0.5`` arrives as three, and is put
            together again. ``batch_size`` and ``max_batch_size`` of the harness have no effect:
            requests are computed one by one.
    """

    def __init__(
        self,
        checkpoint: str,
        dtype: str = "float32",
        device: str | None = None,
        context: int | None = None,
        **decoding: Any,
    ) -> None:
        super().__init__()
        decoded = Decoding.of(decoding)
        opened = open_checkpoint(checkpoint)
        facts = opened.facts(dtype)
        size = parse_capacity(str(decoded.capacity)).of(facts.experts)
        self.max_length = checked_context(opened, context)
        self.prompt = decoded.prompt
        self.run = open_run(
            facts,
            Cache(decoded.routing, size, decoded.pool, decoded.eviction),
            initial_cache="prompt" if self.prompt == "exact" else "cold",
        )
        # The harness says cuda:0 if its user names no device.
        missing = str(device).startswith("cuda") and not torch.cuda.is_available()
        self._device = find_device(None if missing else device)
        model = load_model(opened, dtype, self._device, head=True)
        self._routed = RoutedModel(model, self.run, facts, shared=decoded.pool == "global")
        from transformers import AutoTokenizer

        self.tokenizer = AutoTokenizer.from_pretrained(opened.location)
        self._facts = asdict(decoded) | {"capacity": size, "dtype": dtype}
        self._last: tuple[tuple[int, ...], int, torch.Tensor] | None = None

    @property
    def eot_token_id(self) -> int:
        """Ends a text, and what the model generates."""
        ids = self.tokenizer.eos_token_id
        return int(ids[0] if isinstance(ids, list) else ids)

    @property
    def prefix_token_id(self) -> int:
        """The token before a text that begins a sequence."""
        bos = self.tokenizer.bos_token_id
        return self.eot_token_id if bos is None else int(bos)

    @property
    def tokenizer_name(self) -> str:
        """For the harness's caches of requests."""
        return str(self.tokenizer.name_or_path).replace("/", "__")

    def tok_encode(
        self, string: str, add_special_tokens: bool | None = None, **kwargs: Any
    ) -> list[int]:
        """Token ids, without special tokens unless they are asked for."""
        return list(self.tokenizer.encode(string, add_special_tokens=bool(add_special_tokens)))

    def apply_chat_template(
        self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True
    ) -> str:
        """The model's own template."""
        text: str = self.tokenizer.apply_chat_template(
            chat_history,
            tokenize=False,
            add_generation_prompt=add_generation_prompt,
            continue_final_message=not add_generation_prompt,
        )
        return text

    def get_model_info(self) -> dict[str, Any]:
        """What the harness keeps with its results: routing, and what it did so far."""
        totals = self.run.totals()
        facts = {
            **self._facts,
            "routing": self.run.routing,
            "lossy": is_lossy(self.run.routing),
            "note": self.run.note,
            "slots": totals.slots,
            "misses": totals.misses,
            "loads": totals.loads,
            "changed": totals.changed,
        }
        return {f"moe_mobile_{name}": value for name, value in facts.items()}

    def _loglikelihood_tokens(
        self,
        requests: list[tuple[Any, list[int], list[int]]],
        disable_tqdm: bool = False,
        whole: bool = False,
        **kwargs: Any,
    ) -> list[tuple[float, bool]]:
        """``whole``: the context is not a prompt."""
        answers = []
        for texts, context, continuation in tqdm(requests, disable=disable_tqdm):
            # The last token predicts nothing; a text that is too long loses its beginning.
            ids = (context + continuation)[-self.max_length - 1 :][:-1]
            count = len(continuation)
            prompt = 0 if whole or self.prompt == "decoded" else max(0, len(ids) + 1 - count)
            hidden = self._hidden(ids, prompt)[-count:]
            with torch.inference_mode():
                values = self._routed.log_probabilities(hidden, continuation[-len(hidden) :])
                best = self._routed.logits(hidden).argmax(-1).tolist()
            answer = (float(values.sum()), best == continuation[-len(hidden) :])
            if texts is not None:
                self.cache_hook.add_partial("loglikelihood", texts, answer)
            answers.append(answer)
        return answers

    def _hidden(self, ids: Sequence[int], prompt: int) -> torch.Tensor:
        """Answers of one token to one question differ in what is read off the same states."""
        key = (tuple(ids), prompt)
        if self._last is None or self._last[:2] != key:
            with self._routed.sequence(keep=False):
                self._last = (*key, self._routed.forward(ids, prompt=prompt))
        return self._last[2]

    def loglikelihood_rolling(self, requests: Any, disable_tqdm: bool = False) -> list[float]:
        """Of whole texts; all tokens are decoded, in windows that begin with an empty cache."""
        totals = []
        for (text,) in tqdm([request.args for request in requests], disable=disable_tqdm):
            windows = get_rolling_token_windows(
                token_list=self.tok_encode(text),
                prefix_token=self.prefix_token_id,
                max_seq_len=self.max_length,
                context_len=1,
            )
            parts = [(None, *make_disjoint_window(window)) for window in windows]
            scored = self._loglikelihood_tokens(parts, disable_tqdm=True, whole=True)
            totals.append(sum(value for value, _ in scored))
            self.cache_hook.add_partial("loglikelihood_rolling", (text,), totals[-1])
        return totals

    def generate_until(self, requests: Any, disable_tqdm: bool = False) -> list[str]:
        """Greedy continuations, token by token."""
        answers = []
        for context, options in tqdm([request.args for request in requests], disable=disable_tqdm):
            answers.append(self._generate(context, options))
            self.cache_hook.add_partial("generate_until", (context, options), answers[-1])
        return answers

    def _generate(self, context: str, options: dict[str, Any]) -> str:
        if options.get("do_sample") and options.get("temperature", 1) != 0:
            raise UsageError(
                "answers are greedy, and the task asks for samples",
                setting="do_sample",
                remedy="Add --gen_kwargs do_sample=False",
            )
        until = options.get("until") or []
        ends = [until] if isinstance(until, str) else [end for end in until if end]
        names = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")
        most = int(next((options[name] for name in names if name in options), _TOKENS))
        room = self.max_length - most
        if room < 1:
            raise UsageError(
                f"{most} tokens to generate leave no room in {self.max_length} positions",
                setting="max_gen_toks",
                remedy="Give fewer with --gen_kwargs, or a larger context",
            )
        ids = (self.tok_encode(context) or [self.prefix_token_id])[-room:]
        answer: list[int] = []
        with self._routed.sequence():
            prompt = len(ids) if self.prompt == "exact" else 0
            hidden = self._routed.forward(ids, prompt=prompt)
            while True:
                token = int(self._routed.logits(hidden[-1:]).argmax())
                if token == self.eot_token_id:
                    break
                answer.append(token)
                if len(answer) == most or self._ended(answer, ends):
                    break
                hidden = self._routed.forward([token])
        text = self.tokenizer.decode(answer, skip_special_tokens=True)
        for end in ends:
            text = text.split(end)[0]
        return str(text)

    def _ended(self, answer: list[int], ends: Sequence[str]) -> bool:
        tail = self.tokenizer.decode(answer[-_PARTS:], skip_special_tokens=True)
        return any(end in tail for end in ends)
