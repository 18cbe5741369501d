# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""Weights that are quantized already, or laid out for MLX, recognised by their tensors' names and
types."""

from __future__ import annotations

import re
from collections.abc import Collection
from pathlib import Path

from moe_mobile.errors import MoeMobileError, UnsupportedError
from moe_mobile.model.config import read_json_object

ORIGINAL = "Export from the original bf16, fp16 or fp32 checkpoint"

_MODELOPT = "hf_quant_config.json"
# Files that quantizers write next to the weights, and who does.
QUANTIZER_FILES = {
    "quantize_config.json": "GPTQ",
    "quant_config.json": "AWQ",
    _MODELOPT: "ModelOpt",
}

_SCALES = "FP8 or another format with scales"
# What stands next to a quantized weight, or in its place: the end of a name, and who writes it.
_MARKS = (
    (r"\.(?:qweight|qzeros|g_idx)", "GPTQ or AWQ"),
    (r"(?:\.weight)?\.(?:absmax|quant_map|nested_absmax|nested_quant_map)", "bitsandbytes"),
    (r"(?:\.weight)?\.quant_state\..*", "bitsandbytes"),
    (r"(?:\.weight)?[._]SCB", "bitsandbytes"),
    (r"\.weight_packed", "compressed-tensors"),
    # These before all with scales, which some of them have too.
    (r"\.(?:codes|codebooks)", "AQLM"),
    (r"\.W_q", "HQQ"),
    (r"\.weight\._(?:data|scale|shift).*", "quanto"),
    (r"\._weight_qdata|\.weight:.*", "torchao"),
    (r"\.(?:indices|(?:res_)?centroids\.weight)", "VPTQ"),
    (r"\.weight_scales", "EETQ"),
    (r"\.(?:dense_weights|row_offsets|col_vals)", "SpQR"),
    (r"_blocks", "MXFP4"),
    (r"\.weight_scale_2", "ModelOpt NVFP4"),
    (r"(?:\.weight)?_scale(?:_inv)?", _SCALES),
    (r"\.biases", "MLX"),
    (r"\.scales", "MLX or another format with scales"),
)
# One of a layer's experts, and the names of all of them in one tensor.
_ONE_EXPERT = re.compile(r"(.+\.experts)\.\d+\.")
_STACKS = ("gate_up_proj", "down_proj")
# Of a layer's experts, where mlx-lm stacks them.
_MLX_EXPERTS = ".switch_mlp."
_PATTERNS = tuple((re.compile(rf"(.+?)(?:{end})"), kind) for end, kind in _MARKS)
# How safetensors' names of the types of quantized numbers begin.
_TYPES = {"F4": "FP4", "F6_": "FP6", "F8_": "FP8"}
_PACKED = frozenset(["BOOL", "U8", "I8", "I16", "U16", "I32", "U32", "I64", "U64"])


def refuse_foreign_tensors(stored: Collection[str], used: Collection[str], folder: Path) -> None:
    """Raises an UnsupportedError if one of the ``stored`` tensors says that a ``used`` one is
    quantized, or stacked as MLX does; the folder's other files may tell by whom."""
    modules = {name.removesuffix(".weight") for name in used}
    experts = {match[1] for name in used if (match := _ONE_EXPERT.match(name))}
    modules.update(f"{of}.{stack}" for of in experts for stack in _STACKS)
    found: dict[str, str] = {}
    own = set(used)
    for name in (name for name in stored if name not in own):
        for pattern, kind in _PATTERNS:
            match = pattern.fullmatch(name)
            if match and match[1] in modules:
                found.setdefault(kind, name)
                break
    for kind in (kind for _, kind in _MARKS if kind in found):
        raise UnsupportedError(
            f"the checkpoint is already quantized with {_writer(kind, folder)}: it has the tensor "
            f"{found[kind]}",
            file=folder,
            remedy=f"{ORIGINAL}; if its weights were converted back already, save it with "
            "transformers again, which leaves such tensors out",
        )
    of_mlx = next((name for name in stored if _MLX_EXPERTS in name), None)
    if of_mlx is not None and not set(used) <= set(stored):
        raise UnsupportedError(
            f"the checkpoint was converted for MLX: it has the tensor {of_mlx}",
            file=folder,
            remedy="Export from the checkpoint that it was converted from, as transformers "
            "saves it",
        )


def refuse_type(name: str, dtype: str, file: Path) -> None:
    """Raises the UnsupportedError for a tensor whose type cannot be exported."""
    kind = next((kind for begin, kind in _TYPES.items() if dtype.startswith(begin)), None)
    kind = kind or ("integers" if dtype in _PACKED else None)
    quantized = f": the checkpoint is already quantized with {kind}" if kind else ""
    only = "Only F32, F16 and BF16 weights can be exported"
    raise UnsupportedError(
        f"tensor {name} is stored as {dtype}{quantized}",
        file=file,
        remedy=f"{only}. {ORIGINAL}"
        if kind
        else f"{only}: save it in one of them with "
        "transformers (dtype=torch.bfloat16 and save_pretrained)",
    )


def _writer(kind: str, folder: Path) -> str:
    if kind == _SCALES and (folder / _MODELOPT).exists():
        return f"ModelOpt{_algorithm(folder / _MODELOPT)}"
    if kind != _MARKS[0][1]:
        return kind
    known = [who for file, who in QUANTIZER_FILES.items() if (folder / file).exists()]
    return known[0] if len(known) == 1 else kind


def _algorithm(file: Path) -> str:
    """What ModelOpt did, as its file says; nothing if it does not."""
    try:
        settings = read_json_object(file).get("quantization")
    except MoeMobileError:
        return ""
    name = settings.get("quant_algo") if isinstance(settings, dict) else None
    return f" {name}" if isinstance(name, str) else ""
