# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""Which of the checkpoint's weights each file of a bundle is made of, and whether they changed."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence

from moe_mobile.base.progress import Progress
from moe_mobile.export.workspace import Workspace
from moe_mobile.model.names import TensorRef
from moe_mobile.model.source import OpenModel

EMBEDDING_FILE = "embedding.bin"
HEAD_FILE = "dense/head.pte"


def layer_file(index: int) -> str:
    """A layer's dense program."""
    return f"dense/layer-{index:02d}.pte"


def shard_file(index: int, precision: str) -> str:
    """A layer's experts; ``precision``: empty for the first that they are in."""
    return f"experts/layer-{index:02d}{precision and '.'}{precision}.shard"


class Sources:
    """The weights behind the files of one export.

    Args:
        model: whose they are.
        variants: further precisions of its experts.
    """

    def __init__(self, model: OpenModel, variants: Sequence[str]) -> None:
        self._store = model.store
        tensors = model.tensors
        self._refs: dict[str, Callable[[int], Mapping[str, TensorRef]]] = {
            EMBEDDING_FILE: lambda _: {"": tensors.embedding()},
            HEAD_FILE: lambda _: tensors.head(),
        }
        for index, layer in enumerate(model.architecture.layers):
            self._refs[layer_file(index)] = lambda _, index=index: tensors.layer(index)  # type: ignore[misc]
            if layer.is_moe:
                for precision in ("", *variants):
                    path = shard_file(index, precision)
                    self._refs[path] = functools.partial(tensors.expert, index)

    def checksum(self, path: str, expert: int = 0) -> int:
        """Of the weights that a file, or one expert in it, is made of: its source."""
        return self._store.checksum(self._refs[path](expert).values())

    def changed(self, workspace: Workspace, progress: Progress) -> list[str]:
        """The files that earlier runs made of weights that are others now.

        Weights are read only if their files were written or copied since.
        """
        changed = []
        in_doubt = {
            path: found for path, found in workspace.in_doubt().items() if path in self._refs
        }
        total, done = sum(map(len, in_doubt.values())), 0
        for path, found in in_doubt.items():
            for expert, source in enumerate(found):
                progress("compare", done, total, path)
                done += 1
                if self.checksum(path, expert) != source:
                    changed.append(path)
                    break
        return changed
