# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""Router traces in files; docs/routing/trace-format.md describes them."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from moe_mobile import __version__
from moe_mobile.base.files import open_regular
from moe_mobile.base.json_field import JsonField
from moe_mobile.base.json_text import json_text
from moe_mobile.base.memory import available_memory, memory_to, out_of_memory
from moe_mobile.base.outputs import write_output
from moe_mobile.base.router import SCORES, SOFTMAX, RouterSpec
from moe_mobile.base.router_json import parse_router, router_to_json
from moe_mobile.base.text import size
from moe_mobile.base.versioned_files import Format
from moe_mobile.errors import UnsupportedError, UsageError, read_error
from moe_mobile.routing.facts import MoeFacts
from moe_mobile.settings import index

VERSION = 1
METADATA = "moe_mobile_trace"
"""The one key of the safetensors metadata: several would be written in random order."""

SOURCES = ("engine", "transformers", "synthetic")
_MEMBERS = (
    "version", "created_by", "model", "source", "source_id", "precision", "layers", "top_k",
    "renormalize", "scoring", "sequences", "prompt_tokens",
)  # fmt: skip

MAX_LAYERS = 4096
MAX_EXPERTS = 65536
MAX_TEXT = 200
_MAX_TOKENS = 2**24
MAX_SEQUENCES = 65536
_MAX_HEADER = 1 << 20
_MAX_FILE = 16 << 30
_READ = "read it"
_REMEDY = "Name a file that `moe-mobile trace` wrote, or record it again"
_FORMAT = Format(
    mark="version",
    version=VERSION,
    missing="does not have the member 'version'",
    name="the trace has",
    remedy=_REMEDY,
    newer="Record it again, or use the moe-mobile version that wrote the trace",
)


@dataclass(frozen=True, eq=False)
class Trace:
    """The outputs of a model's routers for every token of one or more sequences.

    Attributes:
        router_logits: float32 [tokens, MoE layers, experts]: what exact routing sorts.
        token_ids: uint32 [tokens], what went in.
        sequences: number of tokens of each; each was computed without those before it.
        prompt_tokens: so many at the beginning of each sequence are a prompt, the rest is decoded.
        layers: the model's number of each MoE layer, ascending.
        top_k: experts of each token and layer.
        router: how the model selects and weighs them.
        model: its name.
        source: one of :data:`SOURCES`.
        source_id: the bundle's hash, or what the checkpoint is called.
        precision: what was computed with: the bundle's quantization, or a floating-point type. Of
            experts in two at once, both and which ranks run in the first: ``8da8w+8da4w ranks:1``.
        created_by: the program that recorded it.

    Raises UsageError if these contradict each other, or a logit is not finite.
    """

    router_logits: NDArray[np.float32]
    token_ids: NDArray[np.uint32]
    sequences: tuple[int, ...]
    layers: tuple[int, ...]
    top_k: int
    model: str
    source: str
    source_id: str
    precision: str
    prompt_tokens: int = 0
    router: RouterSpec = SOFTMAX
    created_by: str = f"moe-mobile {__version__}"

    def __post_init__(self) -> None:
        # As they come back from a file, which numpy's numbers and arrays do not go into.
        for name in ("sequences", "layers"):
            listed = tuple(_whole(name, number) for number in getattr(self, name))
            object.__setattr__(self, name, listed)
        for name in ("top_k", "prompt_tokens"):
            object.__setattr__(self, name, _whole(name, getattr(self, name)))
        logits, ids = self.router_logits, self.token_ids
        _require(logits.dtype == np.float32, f"router_logits are {logits.dtype}, not float32")
        _require(ids.dtype == np.uint32, f"token_ids are {ids.dtype}, not uint32")
        shape = logits.shape
        limits = (_MAX_TOKENS, MAX_LAYERS, MAX_EXPERTS)
        fits = len(shape) == 3 and all(0 < n <= most for n, most in zip(shape, limits, strict=True))
        _require(fits, f"router_logits have the shape {list(shape)}: no tokens, layers and experts")
        tokens, layers, experts = shape
        _require(ids.shape == (tokens,), f"{tokens} tokens have {list(ids.shape)} token_ids")
        _require(
            0 < len(self.sequences) <= MAX_SEQUENCES
            and min(self.sequences) > 0
            and sum(self.sequences) == tokens,
            f"the sequences do not add up to {tokens} tokens",
        )
        ascending = all(a < b for a, b in zip(self.layers, self.layers[1:], strict=False))
        _require(
            len(self.layers) == layers and ascending and self.layers[0] >= 0,
            f"the layers are not {layers} ascending numbers",
        )
        _require(0 < self.top_k <= experts, f"top_k {self.top_k} is not in 1..{experts}")
        _require(
            0 <= self.prompt_tokens <= _MAX_TOKENS, f"invalid prompt_tokens {self.prompt_tokens}"
        )
        _require(self.source in SOURCES, f"the source {self.source!r} is unknown")
        _require(self.router.score in SCORES, f"the score {self.router.score!r} is unknown")
        self.router.check_bias(layers, experts)
        # The sum of float32 values stays finite in double, unless one of them is not.
        with np.errstate(invalid="ignore"):
            total = float(logits.sum(dtype=np.float64))
        _require(math.isfinite(total), "router_logits hold NaN or infinity")

    @property
    def facts(self) -> MoeFacts:
        """The routers that it is of."""
        experts = self.router_logits.shape[2]
        return MoeFacts(
            self.model, self.layers, experts, self.top_k, self.router, (self.precision,)
        )

    def spans(self) -> list[slice]:
        """Where each sequence lies among the tokens."""
        ends = np.cumsum(self.sequences).tolist()
        return [slice(end - n, end) for end, n in zip(ends, self.sequences, strict=True)]


def check_tokens(token_ids: Sequence[int], vocab_size: int) -> None:
    """Raises UsageError unless there are tokens, and the model has them all."""
    if not token_ids:
        raise UsageError("there are no tokens", setting="token_ids", remedy="Give at least one")
    outside = next((token for token in token_ids if not 0 <= token < vocab_size), None)
    if outside is not None:
        raise UsageError(
            f"token {outside} is outside the vocabulary of {vocab_size}",
            setting="token_ids",
            remedy="Tokenize with the model's own tokenizer",
        )


def split(tokens: int, context: int) -> tuple[int, ...]:
    """The lengths of the sequences that so many tokens make, each as long as the context allows."""
    rest = tokens % context
    return (context,) * (tokens // context) + ((rest,) if rest else ())


def check_prompt(prompt_tokens: int, sequences: Sequence[int]) -> None:
    """Raises UsageError if there are only prompts, which leaves nothing to decode."""
    if prompt_tokens >= max(sequences):
        raise UsageError(
            f"no sequence is longer than a prompt of {prompt_tokens} tokens: nothing is decoded",
            setting="prompt_tokens",
            remedy=f"Give fewer than {max(sequences)}, or a longer text",
        )


def write_trace(path: str | os.PathLike[str], trace: Trace) -> int:
    """Write a trace: a file whole or not at all, or into a pipe. Returns its bytes.

    Raises:
        UsageError: a text is too long or not printable.
        BudgetError: there is no memory for a copy of it.
        DiskFullError, ReadOnlyError, IoError: writing failed.
    """
    from safetensors.numpy import save

    router = router_to_json(trace.router)
    metadata = {
        "version": VERSION,
        **{name: getattr(trace, name) for name in _MEMBERS if hasattr(trace, name)},
        "scoring": trace.router.score,
        "renormalize": trace.router.renormalize,
    }
    if len(router) > 2:
        metadata["router"] = router
    # What is saved is their memory, as it lies.
    tensors = {
        "router_logits": np.ascontiguousarray(trace.router_logits, "<f4"),
        "token_ids": np.ascontiguousarray(trace.token_ids, "<u4"),
    }
    text = json_text(metadata, compact=True)
    # Nothing is written that would not be read.
    _read_metadata(text, trace.router_logits.shape, os.fspath(path))
    with memory_to("write it", path):
        return write_output(path, save(tensors, {METADATA: text}))


def read_trace(path: str | os.PathLike[str]) -> Trace:
    """Read a trace. The file may come from anywhere: everything in it is checked.

    Raises:
        UsageError: it is not a trace, or a broken one.
        UnsupportedError: a newer version of moe-mobile wrote it.
        BudgetError: it is larger than the memory that is left.
        IoError: it cannot be read.
    """
    file = os.fspath(path)
    from safetensors import SafetensorError, safe_open

    try:
        _check_size(file)
        with memory_to(_READ, file), safe_open(file, framework="numpy") as opened:
            slices = {name: opened.get_slice(name) for name in opened.keys()}  # noqa: SIM118
            shape = slices["router_logits"].get_shape() if "router_logits" in slices else ()
            members = _read_metadata((opened.metadata() or {}).get(METADATA), shape, file)
            types = {name: tensor.get_dtype() for name, tensor in slices.items()}
            if types != {"router_logits": "F32", "token_ids": "U32"}:
                listed = ", ".join(f"{name} ({kind})" for name, kind in sorted(types.items()))
                raise _broken(f"holds the tensors {listed or 'none'}"[:MAX_TEXT], file)
            # Without the memory for it, get_tensor would panic, and print that.
            np.empty(shape, np.float32)
            tensors: dict[str, Any] = {name: opened.get_tensor(name) for name in types}
            return Trace(**tensors, **members)
    except SafetensorError as error:
        raise _broken(f"is not a safetensors file: {error}", file) from error
    except OSError as error:
        raise read_error(error, file) from error
    except UsageError as error:
        raise _broken(error.cause, file) from error


def _check_size(file: str) -> None:
    """Refuses what would block, or fill memory, before it is known to be a trace."""
    with open_regular(file, _REMEDY) as opened:
        length = os.fstat(opened.fileno()).st_size
        if length > _MAX_FILE:
            raise _broken(f"is larger than {_MAX_FILE >> 30} GiB", file)
        header = int.from_bytes(opened.read(8), "little")
    if header > _MAX_HEADER:
        raise _broken("is not a trace, or its header is larger than 1 MiB", file)
    available = available_memory()
    if length > available:
        raise out_of_memory(f"{_READ}: {size(length)}, and {size(available)} are left", file)


def _read_metadata(text: str | None, shape: Sequence[int], file: str) -> dict[str, Any]:
    """``shape``: of the logits, whose last dimension is the experts."""
    if text is None:
        raise _broken("is not a trace: the metadata are missing", file)
    experts = shape[-1] if shape else 1
    return _FORMAT.parse(text.encode(), file, lambda root: _members(root, experts))


def _members(root: JsonField, experts: int) -> dict[str, Any]:
    root.expect_members(_MEMBERS, ("router",))
    texts = ("created_by", "model", "source_id", "precision")
    return {
        **{name: root[name].text(MAX_TEXT) for name in texts},
        "source": root["source"].one_of(SOURCES),
        "layers": tuple(item.integer(0, MAX_LAYERS - 1) for item in root["layers"].items()),
        "top_k": root["top_k"].integer(1, MAX_EXPERTS),
        "router": _router(root, experts),
        "sequences": tuple(item.integer(1, _MAX_TOKENS) for item in root["sequences"].items()),
        "prompt_tokens": root["prompt_tokens"].integer(0, _MAX_TOKENS),
    }


def _router(root: JsonField, experts: int) -> RouterSpec:
    plain = RouterSpec(
        root["scoring"].one_of(SCORES, UnsupportedError), root["renormalize"].boolean()
    )
    if not root.has("router"):
        return plain
    router = parse_router(root["router"], experts, root["top_k"].integer(1, MAX_EXPERTS))
    if (router.score, router.renormalize) != (plain.score, plain.renormalize):
        root["router"].fail("does not agree with 'scoring' and 'renormalize'")
    return router


def _whole(name: str, number: Any) -> int:
    try:
        return index(number)
    except TypeError:
        raise UsageError(f"{name}: {number!r} is not a whole number") from None


def _require(condition: bool, cause: str) -> None:
    if not condition:
        raise UsageError(cause)


def _broken(cause: str, file: str) -> UsageError:
    return UsageError(cause, file=file, remedy=_REMEDY)
