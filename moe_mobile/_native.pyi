# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
# The C++ module (android_app/engine/src/main/cpp/python); moe_mobile/engine.py is its public face.
from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from moe_mobile.base.progress import Progress

class Generator:
    def next(self) -> int | None: ...
    @property
    def stop(self) -> Literal["eos", "length", "context"]: ...
    @property
    def logits(self) -> NDArray[np.float32]: ...

class Engine:
    def generate(
        self,
        token_ids: Sequence[int],
        max_new_tokens: int,
        sampling_json: str,
        ignore_eos: bool,
        progress: Progress | None,
    ) -> Generator: ...
    def score(self, token_ids: Sequence[int]) -> NDArray[np.float32]: ...
    def nll(self, token_ids: Sequence[int]) -> NDArray[np.float32]: ...
    def stats_json(self) -> str: ...
    def info_json(self) -> str: ...
    def reset(self) -> None: ...
    def cancel(self) -> None: ...
    def resize(self, cache: str) -> None: ...
    def residency(self) -> dict[str, Any]: ...

def open(
    bundle: str,
    settings_json: str,
    progress: Progress | None,
    planned: Callable[[str], None] | None,
) -> Engine: ...
def check_settings(settings_json: str) -> None: ...
def check_manifest(text: str, file: str) -> None: ...
def percent_of(budget: str) -> float | None: ...
def experts_of_share(percent: float, experts: int) -> int: ...
def share_text(slots: int, experts: int) -> str: ...

class RouterSpec:
    def __init__(
        self,
        experts: int,
        top_k: int,
        score: str,
        renormalize: bool,
        scale: float,
        epsilon: float,
        groups: int,
        top_groups: int,
        bias: Sequence[float],
    ) -> None: ...

class RunSettings:
    def __init__(
        self,
        router: RouterSpec,
        layers: Sequence[int],
        capacity: int,
        routing: str,
        eviction: str,
        global_pool: bool,
        warm: bool,
        profile: Sequence[Sequence[int]],
    ) -> None: ...

class RoutingRun:
    def __init__(self, settings: RunSettings) -> None: ...
    def route(
        self, layer: int, logits: NDArray[np.float32], prompt: bool
    ) -> tuple[NDArray[np.int32], NDArray[np.bool_], NDArray[np.bool_]]: ...
    def cached(self) -> NDArray[np.bool_]: ...
    def reset(self) -> None: ...
    @property
    def routing(self) -> str: ...
    @property
    def note(self) -> str: ...
    def totals(self) -> dict[str, int]: ...

def simulate(
    logits: NDArray[np.float32],
    sequences: Sequence[int],
    prompt_tokens: int,
    settings: RunSettings,
) -> dict[str, Any]: ...
