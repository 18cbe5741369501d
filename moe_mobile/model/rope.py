# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""Rotary frequencies from a configuration: scaling variants are an export matter.

The engine rotates by ``position * inverse_frequency`` and multiplies by an amplitude, whatever
variant they come from. Variants whose frequencies depend on the sequence length are refused.
"""

from __future__ import annotations

import math

from moe_mobile.errors import CheckpointError, MoeMobileError, UnsupportedError
from moe_mobile.model.architecture import Rope
from moe_mobile.model.config import ConfigView

_KNOWN = {
    "default": {"rope_theta"},
    "linear": {"rope_theta", "factor"},
    "llama3": {
        "rope_theta",
        "factor",
        "low_freq_factor",
        "high_freq_factor",
        "original_max_position_embeddings",
    },
    "yarn": {
        "rope_theta",
        "factor",
        "attention_factor",
        "beta_fast",
        "beta_slow",
        "mscale",
        "mscale_all_dim",
        "original_max_position_embeddings",
        "truncate",
    },
}

# What scaling variants have: transformers does not look at them without one.
_SCALING = frozenset().union(*_KNOWN.values()) - _KNOWN["default"]
_NO_NUMBERS = frozenset(["rope_type", "type", "truncate"])
# What transformers then derives from the others.
_MAY_BE_NULL = frozenset(
    [
        "attention_factor",
        "beta_fast",
        "beta_slow",
        "mscale",
        "mscale_all_dim",
        "partial_rotary_factor",
    ]
)


def read_rope(view: ConfigView, head_dim: int) -> Rope:
    """Frequencies and amplitude as transformers computes them, float32 values.

    Raises:
        UnsupportedError: a variant or member that we do not know.
        CheckpointError: values from which no finite frequencies follow.
    """
    parameters = view.get("rope_parameters")
    if not isinstance(parameters, dict):
        raise CheckpointError("rope_parameters must be an object", file=view.file)
    kind = parameters.get("rope_type", "default")
    if not isinstance(kind, str) or kind not in _KNOWN:
        raise UnsupportedError(
            f"rope_type {kind!r} is not supported, only {', '.join(sorted(_KNOWN))}",
            file=view.file,
            remedy="Frequencies that depend on the length of the text are not supported; "
            "docs/adding-a-model-family.md says what is",
        )
    if kind == "default":
        parameters = {name: v for name, v in parameters.items() if name not in _SCALING}
    unknown = sorted(set(parameters) - _KNOWN[kind] - {"rope_type", "type"})
    if unknown == ["partial_rotary_factor"] and parameters["partial_rotary_factor"] in (None, 1):
        unknown = []
    if unknown:
        raise UnsupportedError(f"unknown rope option {unknown[0]!r}", file=view.file)
    if head_dim % 2:
        raise UnsupportedError(f"head_dim {head_dim} is odd and cannot be rotated", file=view.file)
    _require_numbers(view, parameters)
    try:
        frequencies, amplitude = _frequencies(view, kind, head_dim)
    except MoeMobileError:
        raise
    except (ArithmeticError, KeyError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"rope_parameters give no frequencies: {error}", file=view.file
        ) from error
    if len(frequencies) != head_dim // 2:
        raise UnsupportedError("rotating only part of a head is not supported", file=view.file)
    if not all(math.isfinite(f) and f > 0 for f in frequencies) or not math.isfinite(amplitude):
        raise CheckpointError("rope_parameters give frequencies out of range", file=view.file)
    return Rope(tuple(frequencies), amplitude)


def scales_null_heads(view: ConfigView) -> bool:
    """Whether transformers finds frequencies while ``head_dim`` is null."""
    parameters = view.get("rope_parameters")
    return not isinstance(parameters, dict) or parameters.get("rope_type") != "yarn"


def _require_numbers(view: ConfigView, parameters: dict[str, object]) -> None:
    """Raises a CheckpointError unless all but names and switches are numbers."""
    for name in sorted(set(parameters) - _NO_NUMBERS):
        value = parameters[name]
        if value is None and name in _MAY_BE_NULL:
            continue
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise CheckpointError(
                f"{name} must be a number, not {'null' if value is None else repr(value)}",
                file=view.file,
                remedy="Give the number that the model was trained with",
            )


def _frequencies(view: ConfigView, kind: str, head_dim: int) -> tuple[list[float], float]:
    import torch

    if kind == "default":
        theta = view.get("rope_parameters")["rope_theta"]
        exponents = torch.arange(0, head_dim, 2, dtype=torch.float32) / head_dim
        return (1.0 / (theta**exponents)).tolist(), 1.0

    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    frequencies, amplitude = ROPE_INIT_FUNCTIONS[kind](view.config)
    return frequencies.tolist(), float(amplitude)
