# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""Shape of the demo model and the settings of its training run."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True)
class Shape:
    """Dimensions of a Qwen3-MoE model with tied embedding (defaults: the shipped demo model)."""

    vocabulary: int = 4096
    hidden: int = 192
    layers: int = 6
    experts: int = 32
    active: int = 4
    expert_width: int = 64
    heads: int = 6
    kv_heads: int = 2
    head_width: int = 32
    context: int = 1024
    epsilon: float = 1e-6
    rope_base: float = 10_000.0


@dataclasses.dataclass(frozen=True)
class Settings:
    """One training run (defaults: the run behind the shipped checkpoint).

    Every step takes ``tokens_per_step`` tokens, in rows of ``short_row`` tokens at first and of the
    full context in the last ``long_steps`` steps. The learning rate rises linearly for
    ``warmup_steps``, stays at ``peak_rate`` and falls linearly to 0 over the last ``decay_steps``;
    it never exceeds a second, gentler line of ``ease_steps`` that would reach 0 ``ease_after``
    steps after the end (this rounds the corner at the top). Up to the point where the rate starts
    to fall, a run does not depend on ``steps``.

    ``balance`` weighs the balance loss in all steps, ``lift`` the loss that brings back starved
    experts from 0-based step ``lift_from`` on (both: :meth:`.model.DemoModel.hidden`).
    """

    steps: int = 3000
    decay_steps: int = 834
    ease_after: int = 600
    ease_steps: int = 1440
    long_steps: int = 400
    warmup_steps: int = 30
    tokens_per_step: int = 4096
    short_row: int = 256
    peak_rate: float = 1e-2
    adam_scale: float = 0.6
    weight_decay: float = 0.1
    balance: float = 0.03
    lift: float = 0.005
    lift_from: int = 915
    seed: int = 0

    @property
    def fixed_until(self) -> int:
        """First step that depends on ``steps``."""
        ease = self.ease_steps - self.ease_after
        return self.steps - max(self.decay_steps, self.long_steps, ease)

    def rate(self, step: int) -> float:
        """Learning rate of 0-based ``step``."""
        rise = (step + 1) / self.warmup_steps
        fall = (self.steps - step) / self.decay_steps
        ease = (self.steps + self.ease_after - step) / self.ease_steps
        return self.peak_rate * min(1.0, rise, fall, ease)

    def lift_at(self, step: int) -> float:
        """Weight of the loss that lifts starved experts in 0-based ``step``."""
        return self.lift if step >= self.lift_from else 0.0

    def row(self, step: int, context: int) -> int:
        """Row length, in tokens, of 0-based ``step``."""
        return context if step >= self.steps - self.long_steps else min(self.short_row, context)
