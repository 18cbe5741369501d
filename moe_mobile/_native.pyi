# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
# The C++ module (android_app/engine/src/main/cpp/python); moe_mobile/engine.py is its public face.
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

class Generator:
    def next(self) -> int | None: ...
    @property
    def stop(self) -> str: ...
    @property
    def logits(self) -> NDArray[np.float32]: ...

class Engine:
    def generate(
        self,
        token_ids: Sequence[int],
        max_new_tokens: int,
        sampling_json: str,
        ignore_eos: bool,
        progress: Callable[[str, int, int], None] | None,
    ) -> Generator: ...
    def score(self, token_ids: Sequence[int]) -> NDArray[np.float32]: ...
    def nll(self, token_ids: Sequence[int]) -> NDArray[np.float32]: ...
    def stats_json(self) -> str: ...
    def info_json(self) -> str: ...
    def reset(self) -> None: ...

def open(
    bundle: str,
    settings_json: str,
    progress: Callable[[str, int, int], None] | None,
    planned: Callable[[str], None] | None,
) -> Engine: ...
def check_settings(settings_json: str) -> None: ...
def check_manifest(text: str, file: str) -> None: ...
def simulate(
    logits: NDArray[np.float32],
    top_k: int,
    capacity: int,
    routing: str,
    eviction: str,
    global_pool: bool,
    sigmoid: bool,
    bias: Sequence[float],
    groups: int,
    top_groups: int,
) -> dict[str, Any]: ...
