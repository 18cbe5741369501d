# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""What all families share: the row of the registry and the reading of common members."""

from __future__ import annotations

import json
from collections.abc import Callable, Container, Mapping
from dataclasses import dataclass, field

from moe_mobile.base.router import RouterSpec
from moe_mobile.errors import CheckpointError, UnsupportedError
from moe_mobile.model.architecture import Architecture, Attention, Layer, Moe, QkNorm
from moe_mobile.model.config import ConfigView, JsonObject
from moe_mobile.model.names import TensorNames
from moe_mobile.model.rope import read_rope, scales_null_heads

COMMON_MEMBERS = frozenset(
    [
        "hidden_act",
        "hidden_size",
        "intermediate_size",
        "max_position_embeddings",
        "num_attention_heads",
        "num_experts_per_tok",
        "num_hidden_layers",
        "num_key_value_heads",
        "rms_norm_eps",
        "rope_parameters",
        "rope_scaling",
        "rope_theta",
        "tie_word_embeddings",
        "vocab_size",
    ]
)

# What DeepSeek's configurations say of their routers, where it is what softmax routers do anyway.
PLAIN_ROUTER: Mapping[str, Container[object]] = {
    "n_group": (1,),
    "routed_scaling_factor": (1,),
    "scoring_func": ("softmax",),
    "topk_group": (1,),
    "topk_method": ("greedy",),
}


@dataclass(frozen=True)
class Source:
    """What an adapter gets: the raw configuration, its file's name, and the model's name.

    ``stop``: the ``eos_token_id`` of another file that counts instead, and that file.
    """

    raw: JsonObject
    file: str
    name: str
    stop: tuple[object, str] | None = None


@dataclass(frozen=True)
class Family:
    """A row of the registry.

    Attributes:
        model_type: ``model_type`` of the Hugging Face configuration.
        title: what to call it; ``models``: well-known members.
        notes: what is special about it, one line.
        config: the class of the configuration in transformers.
        members: members of the configuration that are known; any other that is on is refused.
        always: further members, with the values that say what the family does in any case.
        read: the experts, and the layers in their order; raises for what is not supported.
        names: the names of its tensors.
    """

    model_type: str
    title: str
    models: tuple[str, ...]
    notes: str
    config: str
    members: frozenset[str]
    read: Callable[[ConfigView], tuple[Moe, list[Layer]]]
    names: TensorNames = field(default_factory=TensorNames)
    always: Mapping[str, Container[object]] = field(default_factory=dict)

    def describe(self, source: Source) -> Architecture:
        """The architecture of a configuration.

        Raises:
            UnsupportedError: an option that this package does not know.
            CheckpointError: the configuration contradicts itself.
        """
        module = f"transformers.models.{self.model_type}.configuration_{self.model_type}"
        view = ConfigView(source.raw, source.file, module, self.config, self.members, self.always)
        moe, layers = self.read(view)
        return _build(source, view, moe, layers)


def read_attention(
    view: ConfigView,
    *,
    qk_norm: QkNorm = QkNorm.NONE,
    qkv_bias: bool = False,
    output_bias: bool = False,
    clip: float | None = None,
    window: int = 0,
    derives_null: bool = False,
) -> Attention:
    """Attention with ``head_dim`` defaulting to ``hidden_size / num_attention_heads``.

    ``derives_null``: whether the family's modules do so for null too.
    """
    hidden, heads = view.integer("hidden_size"), view.integer("num_attention_heads", maximum=4096)
    kv_heads = view.integer("num_key_value_heads", maximum=4096)
    if heads % kv_heads:
        raise CheckpointError(
            f"num_attention_heads {heads} is not a multiple of num_key_value_heads {kv_heads}",
            file=view.file,
        )
    if view.get("head_dim") is None:
        if hidden % heads:
            raise CheckpointError(
                f"hidden_size {hidden} is not a multiple of num_attention_heads {heads}",
                file=view.file,
            )
        if hasattr(view.config, "head_dim") and not (derives_null and scales_null_heads(view)):
            raise CheckpointError(
                "head_dim has no value: transformers then fails",
                file=view.file,
                remedy=f"Give head_dim: {hidden // heads} (hidden_size / num_attention_heads)",
            )
        view.config.head_dim = hidden // heads
    head_dim = view.integer("head_dim", maximum=4096)
    return Attention(
        num_heads=heads,
        num_kv_heads=kv_heads,
        head_dim=head_dim,
        scale=head_dim**-0.5,
        rope=read_rope(view, head_dim),
        qk_norm=qk_norm,
        qkv_bias=qkv_bias,
        output_bias=output_bias,
        clip=clip,
        window=window,
    )


def read_moe(
    view: ConfigView,
    experts: str,
    width: str,
    router: RouterSpec,
    *,
    router_bias: bool = False,
    shared_width: int = 0,
) -> Moe:
    """The routed experts; ``experts`` and ``width`` name the members that hold their numbers."""
    count = view.integer(experts, maximum=65536)
    return Moe(
        num_experts=count,
        top_k=view.integer("num_experts_per_tok", maximum=count),
        intermediate_size=view.integer(width),
        router=router,
        router_bias=router_bias,
        shared_intermediate_size=shared_width,
    )


def sparse_layers(view: ConfigView) -> list[bool]:
    """Which layers are MoE layers by ``mlp_only_layers`` and ``decoder_sparse_step`` (Qwen)."""
    count = num_layers(view)
    step = view.integer("decoder_sparse_step")
    dense = view.get("mlp_only_layers")
    if not isinstance(dense, list) or not all(type(i) is int and 0 <= i < count for i in dense):
        raise CheckpointError(
            f"mlp_only_layers must list layer indices below {count}, not {dense!r}", file=view.file
        )
    sparse = [i not in dense and (i + 1) % step == 0 for i in range(count)]
    if not any(sparse):
        raise UnsupportedError("no layer has experts: this is a dense model", file=view.file)
    return sparse


def num_layers(view: ConfigView) -> int:
    """How many layers of all kinds there are."""
    return view.integer("num_hidden_layers", maximum=4096)


def layer_kinds(view: ConfigView, *known: str) -> list[str]:
    """``layer_types``: a kind for each layer, one of those ``known``."""
    kinds, count = view.get("layer_types"), num_layers(view)
    if not isinstance(kinds, list) or len(kinds) != count:
        raise CheckpointError(f"layer_types must have {count} entries", file=view.file)
    for kind in kinds:
        if kind not in known:
            raise UnsupportedError(f"layer_types: unknown kind {kind!r}", file=view.file)
    return kinds


def read_window(view: ConfigView) -> int:
    """``sliding_window``: 0 if it is null."""
    return 0 if view.get("sliding_window") is None else view.integer("sliding_window")


def _build(source: Source, view: ConfigView, moe: Moe, layers: list[Layer]) -> Architecture:
    """Joins the parts with the members that every family has, checking those we cannot vary."""
    view.require("hidden_act", "silu", "swish")
    vocab = view.integer("vocab_size")
    epsilon = view.number("rms_norm_eps")
    _require_padding(view, vocab)
    stop, stop_file = source.stop or (view.get("eos_token_id"), view.file)
    if not any(isinstance(layer.mixer, Attention) for layer in layers):
        raise UnsupportedError("no layer has attention", file=source.file)
    return Architecture(
        family=source.raw["model_type"],
        name=source.name,
        vocab_size=vocab,
        hidden_size=view.integer("hidden_size", maximum=2**20),
        context_length=view.integer("max_position_embeddings"),
        norm_epsilon=epsilon,
        dense_intermediate_size=view.integer("intermediate_size"),
        tied_embedding=view.boolean("tie_word_embeddings"),
        bos_token_id=_optional_token(view, "bos_token_id", vocab),
        eos_token_ids=_stop_tokens(stop, stop_file, vocab),
        moe=moe,
        layers=tuple(layers),
    )


def _optional_token(view: ConfigView, name: str, vocab: int) -> int | None:
    return None if view.get(name) is None else view.integer(name, 0, vocab - 1)


def _stop_tokens(value: object, file: str, vocab: int) -> tuple[int, ...]:
    ids = [] if value is None else value if isinstance(value, list) else [value]
    if len(ids) > 16 or not all(type(i) is int and 0 <= i < vocab for i in ids):
        raise CheckpointError(
            f"eos_token_id must be up to 16 token ids below {vocab}, not {json.dumps(value)}",
            file=file,
            remedy="Give the id of the token that ends a text, or a list of such ids",
        )
    return tuple(sorted(set(ids)))


def _require_padding(view: ConfigView, vocab: int) -> None:
    """transformers makes an embedding with the padding's row marked: it must have that row."""
    value = view.get("pad_token_id")
    if value is not None and not -vocab <= value < vocab:
        raise CheckpointError(
            f"pad_token_id {value} has no row in the embedding, which has {vocab}: transformers "
            "fails with it",
            file=view.file,
            remedy="Give the id of a token, or take the member out",
        )
