# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""Run Mixture-of-Experts language models that do not fit in memory.

The public API, loaded on first use so that importing the package (and ``moe-mobile --help``)
does not import torch:

* :func:`export_bundle` turns a Hugging Face checkpoint into a bundle of ExecuTorch programs;
* :class:`Engine` runs a bundle, streaming its experts from disk through a bounded cache;
* :mod:`moe_mobile.errors` holds the typed errors both of them raise.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from moe_mobile import errors
    from moe_mobile.engine import Engine
    from moe_mobile.export import export_bundle

__version__ = "0.1.0"

__all__ = ["Engine", "__version__", "errors", "export_bundle"]

_LAZY = {
    "Engine": ("moe_mobile.engine", "Engine"),
    "export_bundle": ("moe_mobile.export", "export_bundle"),
    "errors": ("moe_mobile.errors", None),
}


def __getattr__(name: str) -> object:
    if name not in _LAZY:
        raise AttributeError(f"module 'moe_mobile' has no attribute {name!r}")
    module_name, attribute = _LAZY[name]
    module = importlib.import_module(module_name)
    value = module if attribute is None else getattr(module, attribute)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_LAZY})
