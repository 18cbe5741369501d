# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""How a model's makers sample its answers: ``generation_config.json``."""

from __future__ import annotations

import pathlib
from typing import Any, NamedTuple

from moe_mobile.text.files import parse_object, read_files

_FILE = "generation_config.json"
# transformers samples among so many if the file does not say.
_TOP_K = 50
_LARGEST = 1e30
# What the engine does not do, with the value that changes nothing.
_OTHERS = {
    "epsilon_cutoff": 0,
    "eta_cutoff": 0,
    "min_p": 0,
    "no_repeat_ngram_size": 0,
    "repetition_penalty": 1,
    "typical_p": 1,
}


class OwnSampling(NamedTuple):
    """Sampling that a model comes with.

    Attributes:
        settings: the engine's ``temperature``, ``top_k`` and ``top_p``.
        others: names of further settings, which the engine does not have.
    """

    settings: dict[str, int | float]
    others: tuple[str, ...]


def own_sampling(bundle: pathlib.Path) -> OwnSampling | None:
    """That of a bundle's model; None if it takes the likeliest tokens, or does not say.

    Raises what :func:`read_files` and :func:`parse_object` do.
    """
    config = parse_object(bundle, _FILE, read_files(bundle, [_FILE]))
    if config.get("do_sample") is not True:
        return None
    temperature = _number(config.get("temperature"), 1.0)
    top_k, top_p = _number(config.get("top_k"), _TOP_K), _number(config.get("top_p"), 1.0)
    if temperature <= 0 or top_k < 0 or top_k != int(top_k) or not 0 < top_p <= 1:
        return None  # nothing samples so
    settings = {"temperature": temperature, "top_k": int(top_k), "top_p": top_p}
    others = (name for name, neutral in _OTHERS.items() if config.get(name) not in (None, neutral))
    return OwnSampling(settings, tuple(others))


def _number(value: Any, default: float) -> float:
    """The value; -1 for what is no setting, such as a text or NaN."""
    if value is None:
        return default
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return value if is_number and -1 < value < _LARGEST else -1
