# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""Run Mixture-of-Experts language models that do not fit in memory.

>>> from moe_mobile import Engine, export_bundle
>>> bundle = export_bundle("demo", "demo")
>>> with Engine(bundle, cache="25%") as engine:
...     for piece in engine.generate("Once upon a time", max_new_tokens=20):
...         print(piece, end="", flush=True)

* :func:`export_bundle` turns a Hugging Face checkpoint into a bundle of ExecuTorch programs.
  :class:`QuantizationSettings` says how it stores weights.
* :class:`Engine` runs a bundle, streaming its experts from disk through a bounded cache.
* :class:`CacheSettings`, :class:`RoutingSettings` and :class:`ReadingSettings` say how.
* :class:`Generation`, :class:`GenerationResult`, :class:`Stats`, :class:`Info` and
  :class:`Residency` are what an engine returns.
* :mod:`moe_mobile.errors` has the typed errors.

Names are loaded on first use, so that importing the package does not import torch. docs/python.md
shows more.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from moe_mobile import errors
    from moe_mobile.bundle.quantization import QuantizationSettings
    from moe_mobile.engine import Engine
    from moe_mobile.export import export_bundle
    from moe_mobile.generation import Generation
    from moe_mobile.results import GenerationResult, Info, Residency, Stats
    from moe_mobile.settings import CacheSettings, ReadingSettings, RoutingSettings

__version__ = "0.1.0"

__all__ = [
    "CacheSettings",
    "Engine",
    "Generation",
    "GenerationResult",
    "Info",
    "QuantizationSettings",
    "ReadingSettings",
    "Residency",
    "RoutingSettings",
    "Stats",
    "__version__",
    "errors",
    "export_bundle",
]

# Where each name is; None: it is a module.
_LAZY = {
    "CacheSettings": "moe_mobile.settings",
    "Engine": "moe_mobile.engine",
    "Generation": "moe_mobile.generation",
    "GenerationResult": "moe_mobile.results",
    "Info": "moe_mobile.results",
    "QuantizationSettings": "moe_mobile.bundle.quantization",
    "ReadingSettings": "moe_mobile.settings",
    "Residency": "moe_mobile.results",
    "RoutingSettings": "moe_mobile.settings",
    "Stats": "moe_mobile.results",
    "errors": None,
    "export_bundle": "moe_mobile.export",
}


def __getattr__(name: str) -> object:
    if name not in _LAZY:
        raise AttributeError(f"module 'moe_mobile' has no attribute {name!r}")
    place = _LAZY[name]
    if place is None:
        value: object = importlib.import_module(f"moe_mobile.{name}")
    else:
        value = getattr(importlib.import_module(place), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_LAZY})
