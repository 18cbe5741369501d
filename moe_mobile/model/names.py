# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""Which checkpoint tensor is which parameter of which program.

Programs have parameters with our names (``qkv.q.weight``); checkpoints have tensors with their
family's names. A family is described by a :class:`TensorNames`; :class:`ModelTensors` joins it
with the architecture and what a checkpoint really holds.
"""

from __future__ import annotations

import math
import re
from collections.abc import Container, Iterator
from dataclasses import dataclass, replace

from moe_mobile.model.architecture import Architecture, Attention, Convolution, QkNorm


@dataclass(frozen=True)
class TensorRef:
    """A stored tensor, or a part of it.

    Attributes:
        name: the tensor's name in the checkpoint.
        shape: the shape the whole stored tensor must have.
        index: if not None, element ``index`` of the first dimension is meant.
        rows: if not None, rows ``rows[0]:rows[1]`` (of that element) are meant.
        column: if not None, element ``column`` of the last dimension, without dimensions of one:
            [h, 1, k] becomes [h].
    """

    name: str
    shape: tuple[int, ...]
    index: int | None = None
    rows: tuple[int, int] | None = None
    column: int | None = None

    @property
    def part_shape(self) -> tuple[int, ...]:
        """Shape of the part that is meant."""
        shape = self.shape if self.index is None else self.shape[1:]
        if self.column is not None:
            return tuple(size for size in shape[:-1] if size != 1)
        return shape if self.rows is None else (self.rows[1] - self.rows[0], *shape[1:])

    def slice_rows(self, begin: int, end: int) -> TensorRef:
        """Rows ``begin:end`` of this part."""
        first = 0 if self.rows is None else self.rows[0]
        return replace(self, rows=(first + begin, first + end))


@dataclass(frozen=True)
class TensorNames:
    """Names of a family's tensors; ``{expert}`` stands for the expert's index.

    Names of a layer's tensors follow ``layer``. If several are given, the first one that the
    checkpoint holds is used (transformers 5 renames some of them when it stacks experts).
    """

    embedding: str = "model.embed_tokens.weight"
    final_norm: str = "model.norm.weight"
    head: str = "lm_head.weight"
    layer: str = "model.layers.{layer}."
    input_norm: str = "input_layernorm.weight"
    query: str = "self_attn.q_proj"
    key: str = "self_attn.k_proj"
    value: str = "self_attn.v_proj"
    output: str = "self_attn.o_proj"
    query_norm: str = "self_attn.q_norm.weight"
    key_norm: str = "self_attn.k_norm.weight"
    convolution_in: str = "conv.in_proj.weight"
    convolution_taps: str = "conv.conv.weight"
    convolution_out: str = "conv.out_proj.weight"
    post_norm: str = "post_attention_layernorm.weight"
    router: tuple[str, ...] = ("mlp.gate.weight",)
    router_bias: str = "mlp.gate.e_score_correction_bias"
    dense_gate: str = "mlp.gate_proj.weight"
    dense_up: str = "mlp.up_proj.weight"
    dense_down: str = "mlp.down_proj.weight"
    shared_gate: str = "mlp.shared_expert.gate_proj.weight"
    shared_up: str = "mlp.shared_expert.up_proj.weight"
    shared_down: str = "mlp.shared_expert.down_proj.weight"
    shared_switch: str = "mlp.shared_expert_gate.weight"
    expert_gate: str = "mlp.experts.{expert}.gate_proj.weight"
    expert_up: str = "mlp.experts.{expert}.up_proj.weight"
    expert_down: str = "mlp.experts.{expert}.down_proj.weight"
    stacked_gate_up: str = "mlp.experts.gate_up_proj"
    stacked_down: str = "mlp.experts.down_proj"
    renamed: tuple[str, str] = ("", "")
    """A part of names that transformers replaces when it loads them, and by what."""


class ModelTensors:
    """The tensors behind every program of one model.

    Args:
        architecture: the model.
        names: its family's tensor names.
        stored: the names that the checkpoint holds.
    """

    def __init__(
        self, architecture: Architecture, names: TensorNames, stored: Container[str]
    ) -> None:
        self._a = architecture
        self._names = names
        self._stored = stored

    def embedding(self) -> TensorRef:
        """The embedding table [vocab_size, hidden_size]."""
        return TensorRef(self._names.embedding, (self._a.vocab_size, self._a.hidden_size))

    def head(self) -> dict[str, TensorRef]:
        """Parameters of the head program. A tied head reads the embedding table, unless the
        checkpoint holds a head all the same: then transformers takes that one."""
        shape = (self._a.vocab_size, self._a.hidden_size)
        tied = self._a.tied_embedding and self._names.head not in self._stored
        weight = self._names.embedding if tied else self._names.head
        return {
            "norm.weight": TensorRef(self._names.final_norm, (self._a.hidden_size,)),
            "linear.weight": TensorRef(weight, shape),
        }

    def layer(self, index: int) -> dict[str, TensorRef]:
        """Parameters of a layer's program, ``qkv.`` and ``mix.`` methods together."""
        prefix = self._layer_prefix(index)
        layer, hidden = self._a.layers[index], (self._a.hidden_size,)
        refs = {
            "qkv.norm.weight": TensorRef(prefix + self._names.input_norm, hidden),
            "mix.norm.weight": TensorRef(prefix + self._names.post_norm, hidden),
        }
        if isinstance(layer.mixer, Convolution):
            refs |= self._convolution(prefix, layer.mixer)
        else:
            refs |= self._attention(prefix, layer.mixer)
        refs |= self._moe_mix(prefix) if layer.is_moe else self._dense_mix(prefix)
        return refs

    def expert(self, layer: int, expert: int) -> dict[str, TensorRef]:
        """Parameters of one expert's program."""
        prefix = self._layer_prefix(layer)
        hidden, width = self._a.hidden_size, self._a.moe.intermediate_size
        count = self._a.moe.num_experts
        if prefix + self._names.stacked_gate_up in self._stored:
            stacked = TensorRef(
                prefix + self._names.stacked_gate_up, (count, 2 * width, hidden), index=expert
            )
            down = TensorRef(
                prefix + self._names.stacked_down, (count, hidden, width), index=expert
            )
            return {
                "gate.weight": stacked.slice_rows(0, width),
                "up.weight": stacked.slice_rows(width, 2 * width),
                "down.weight": down,
            }
        names = self._names
        return {
            "gate.weight": TensorRef(
                prefix + names.expert_gate.format(expert=expert), (width, hidden)
            ),
            "up.weight": TensorRef(prefix + names.expert_up.format(expert=expert), (width, hidden)),
            "down.weight": TensorRef(
                prefix + names.expert_down.format(expert=expert), (hidden, width)
            ),
        }

    def all(self) -> Iterator[TensorRef]:
        """Of every program. Those of tensors that are cut into parts come more than once."""
        yield self.embedding()
        yield from self.head().values()
        for index, layer in enumerate(self._a.layers):
            yield from self.layer(index).values()
            bias = self.router_bias(index)
            if bias is not None:
                yield bias
            if layer.is_moe:
                for expert in range(self._a.moe.num_experts):
                    yield from self.expert(index, expert).values()

    def renamed(self, name: str) -> str:
        """A stored tensor's name as transformers changes it when it loads."""
        return name.replace(*self._names.renamed)

    def parameters(self) -> dict[str, str]:
        """By their names in transformers: the tensors of all programs, and the head if it is tied
        too."""
        names = [self._names.head, *(ref.name for ref in self.all())]
        return {self.renamed(name): name for name in names}

    def expert_names(self) -> re.Pattern[str]:
        """Names of an expert's weights, or of all in one tensor, in the layers with experts, after
        transformers renamed them. It takes more than numbers for an expert's."""
        names = self._names
        single = (names.expert_gate, names.expert_up, names.expert_down)
        endings = [re.escape(self.renamed(one)).replace(r"\{expert\}", ".*") for one in single]
        endings += map(re.escape, (names.stacked_gate_up, names.stacked_down))
        layers = (i for i, layer in enumerate(self._a.layers) if layer.is_moe)
        prefixes = map(re.escape, map(self._layer_prefix, layers))
        return re.compile(f"(?:{'|'.join(prefixes)})(?:{'|'.join(endings)})")

    def _layer_prefix(self, layer: int) -> str:
        return self._names.layer.format(layer=layer)

    def router_bias(self, layer: int) -> TensorRef | None:
        """What a layer's router adds to its scores before sorting [experts]; None: nothing."""
        if not (self._a.moe.router_bias and self._a.layers[layer].is_moe):
            return None
        name = self._layer_prefix(layer) + self._names.router_bias
        return TensorRef(name, (self._a.moe.num_experts,))

    def num_parameters(self) -> int:
        """Number of parameters of the whole model; a tied head counts once."""
        groups = [self.head(), *(self.layer(i) for i in range(len(self._a.layers)))]
        total = sum(_count(ref) for group in groups for ref in group.values())
        if self.head()["linear.weight"].name != self._names.embedding:
            total += _count(self.embedding())
        for index, layer in enumerate(self._a.layers):
            bias = self.router_bias(index)
            if bias is not None:
                total += _count(bias)
            if layer.is_moe:
                one = sum(_count(ref) for ref in self.expert(index, 0).values())
                total += one * self._a.moe.num_experts
        return total

    def _attention(self, prefix: str, attention: Attention) -> dict[str, TensorRef]:
        hidden, names = self._a.hidden_size, self._names
        refs = {}
        widths = {
            "q": (names.query, attention.query_width),
            "k": (names.key, attention.kv_width),
            "v": (names.value, attention.kv_width),
        }
        for ours, (theirs, width) in widths.items():
            refs[f"qkv.{ours}.weight"] = TensorRef(f"{prefix}{theirs}.weight", (width, hidden))
            if attention.qkv_bias:
                refs[f"qkv.{ours}.bias"] = TensorRef(f"{prefix}{theirs}.bias", (width,))
        if attention.qk_norm is not QkNorm.NONE:
            per_head = attention.qk_norm is QkNorm.HEAD
            query = attention.head_dim if per_head else attention.query_width
            key = attention.head_dim if per_head else attention.kv_width
            refs["qkv.q_norm.weight"] = TensorRef(prefix + names.query_norm, (query,))
            refs["qkv.k_norm.weight"] = TensorRef(prefix + names.key_norm, (key,))
        refs["mix.o.weight"] = TensorRef(
            f"{prefix}{names.output}.weight", (hidden, attention.query_width)
        )
        if attention.output_bias:
            refs["mix.o.bias"] = TensorRef(f"{prefix}{names.output}.bias", (hidden,))
        return refs

    def _convolution(self, prefix: str, convolution: Convolution) -> dict[str, TensorRef]:
        hidden, names, kernel = self._a.hidden_size, self._names, convolution.kernel
        # The checkpoint stacks the three projections.
        stacked = TensorRef(prefix + names.convolution_in, (3 * hidden, hidden))
        refs = {
            f"qkv.{ours}.weight": stacked.slice_rows(i * hidden, (i + 1) * hidden)
            for i, ours in enumerate(("b", "c", "x"))
        }
        taps = TensorRef(prefix + names.convolution_taps, (hidden, 1, kernel))
        for i in range(kernel):
            refs[f"mix.tap_{i}"] = replace(taps, column=i)
        refs["mix.o.weight"] = TensorRef(prefix + names.convolution_out, (hidden, hidden))
        return refs

    def _moe_mix(self, prefix: str) -> dict[str, TensorRef]:
        hidden, names, moe = self._a.hidden_size, self._names, self._a.moe
        router = next((n for n in names.router if prefix + n in self._stored), names.router[0])
        refs = {"mix.router.weight": TensorRef(prefix + router, (moe.num_experts, hidden))}
        if moe.shared_intermediate_size:
            refs |= _swiglu(
                prefix,
                (names.shared_gate, names.shared_up, names.shared_down),
                hidden,
                moe.shared_intermediate_size,
            )
            refs["mix.switch.weight"] = TensorRef(prefix + names.shared_switch, (1, hidden))
        return refs

    def _dense_mix(self, prefix: str) -> dict[str, TensorRef]:
        names = (self._names.dense_gate, self._names.dense_up, self._names.dense_down)
        return _swiglu(prefix, names, self._a.hidden_size, self._a.dense_intermediate_size)


def _swiglu(
    prefix: str, names: tuple[str, str, str], hidden: int, width: int
) -> dict[str, TensorRef]:
    gate, up, down = names
    return {
        "mix.gate.weight": TensorRef(prefix + gate, (width, hidden)),
        "mix.up.weight": TensorRef(prefix + up, (width, hidden)),
        "mix.down.weight": TensorRef(prefix + down, (hidden, width)),
    }


def _count(ref: TensorRef) -> int:
    return math.prod(ref.part_shape)
