# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""What routing knows of a model, from whatever source, and whether two sources agree."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from moe_mobile.base.router import SOFTMAX, RouterSpec
from moe_mobile.errors import UsageError

if TYPE_CHECKING:
    from moe_mobile.bundle.manifest import Manifest


@dataclass(frozen=True)
class MoeFacts:
    """The experts of a model, and how its routers select them.

    Attributes:
        name: of the model.
        layers: the model's number of each MoE layer, ascending.
        experts: of each of these layers; ``top_k``: how many of them a token uses.
        router: how they are selected.
        precisions: that the experts are there in, by the engine's number of the variant.
        quantization: of a bundle, as it is called everywhere: 8da4w+8da8w.
    """

    name: str
    layers: tuple[int, ...]
    experts: int
    top_k: int
    router: RouterSpec = SOFTMAX
    precisions: tuple[str, ...] = ("float32",)
    quantization: str | None = None

    @classmethod
    def of_bundle(cls, manifest: Manifest) -> MoeFacts:
        """Those of a bundle."""
        moe, layers = manifest.moe, manifest.moe_layers
        return cls(
            manifest.model.name,
            layers,
            moe.num_experts,
            moe.top_k,
            moe.router,
            manifest.precisions,
            manifest.quantization.name,
        )

    @property
    def words(self) -> str:
        """For people."""
        layers = len(self.layers)
        return f"{layers} MoE layers, the best {self.top_k} of {self.experts} experts"

    @property
    def token_cycle(self) -> int:
        """Experts that one token uses, in all layers."""
        return len(self.layers) * self.top_k

    @property
    def never_hits(self) -> int:
        """The largest global LRU cache, in experts of all layers, that exact routing never hits.

        Between a token's use of a layer and the next token's come the ``top_k`` experts of every
        other layer, and as many as these are the most recent ones of an LRU cache.
        """
        return (len(self.layers) - 1) * self.top_k

    def compared(self) -> dict[str, object]:
        """What sources of one model agree in, by the words of an error."""
        return {
            "model": self.name,
            "number of layers": len(self.layers),
            "layers": self.layers,
            "number of experts": self.experts,
            "top_k": self.top_k,
            "router": self.router.score,
        }


def require_same(
    its: Mapping[str, object],
    wanted: Mapping[str, object],
    *,
    file: str | os.PathLike[str],
    other: str,
    remedy: str,
    but: Collection[str] = (),
) -> None:
    """Raises UsageError if a fact of ``file`` is not that of ``other``, which ``wanted`` has.

    ``but``: facts that may differ. The first difference is named, with both values.
    """
    for name, value in its.items():
        if name not in but and value != wanted[name]:
            raise UsageError(
                f"does not go with {other}: the {name} is {_shown(value)}, there "
                f"{_shown(wanted[name])}",
                file=file,
                remedy=remedy,
            )


def _shown(value: object) -> str:
    """A short text of it; a model may have 4096 layers."""
    text = str(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
