# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""What an export costs: processor time per expert, and peak memory."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from moe_mobile.base.cores import cores
from moe_mobile.export import RandomWeights, export_bundle

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
@pytest.mark.parametrize("threads", [1, 4])
def test_at_least_twelve_experts_per_second_of_a_core(threads: int, tmp_path: Path) -> None:
    """2048x1408 experts in 8da4w: read, quantized, packed, hashed and written.

    Counted in processor time: wall-clock time would depend on what else the machine does. So it
    must be however many threads PyTorch may have.
    """
    times: list[float] = []

    def progress(stage: str, done: int, total: int, detail: str = "") -> None:
        # The first expert pays for the template.
        if detail.startswith("layer 0, expert ") and not detail.endswith(" 0"):
            times.append(time.process_time())

    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        export_bundle(
            RandomWeights("Qwen1.5-MoE-A2.7B", layers=1, vocab_size=64),
            tmp_path / "bundle",
            "8da4w",
            progress=progress,
        )
    finally:
        torch.set_num_threads(before)
    assert len(times) == 59
    # Those that were in flight when the second was written had been begun before.
    made = len(times) - 1 - (cores() + 2)
    rate = made / (times[-1] - times[0])
    print(f"{rate:.1f} experts per second of processor time")
    assert rate >= 12


def write_large_checkpoint(folder: Path) -> int:
    """A Qwen3-MoE checkpoint of 600 MB in bf16; returns the elements of its largest program."""
    hidden, width, experts, layers, vocab = 1024, 512, 64, 3, 8192
    config = {
        "model_type": "qwen3_moe",
        "vocab_size": vocab,
        "hidden_size": hidden,
        "intermediate_size": 1024,
        "moe_intermediate_size": width,
        "num_hidden_layers": layers,
        "num_attention_heads": 8,
        "num_key_value_heads": 2,
        "head_dim": 64,
        "num_experts": experts,
        "num_experts_per_tok": 4,
        "norm_topk_prob": True,
        "max_position_embeddings": 1024,
        "rope_theta": 10000.0,
        "tie_word_embeddings": True,
        "bos_token_id": 0,
        "eos_token_id": 0,
    }
    shapes: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (vocab, hidden),
        "model.norm.weight": (hidden,),
    }
    for layer in range(layers):
        prefix = f"model.layers.{layer}."
        attention = {"q_proj": 512, "k_proj": 128, "v_proj": 128}
        for projection, rows in attention.items():
            shapes[f"{prefix}self_attn.{projection}.weight"] = (rows, hidden)
        shapes[f"{prefix}self_attn.o_proj.weight"] = (hidden, 512)
        shapes[f"{prefix}self_attn.q_norm.weight"] = (64,)
        shapes[f"{prefix}self_attn.k_norm.weight"] = (64,)
        shapes[f"{prefix}input_layernorm.weight"] = (hidden,)
        shapes[f"{prefix}post_attention_layernorm.weight"] = (hidden,)
        shapes[f"{prefix}mlp.gate.weight"] = (experts, hidden)
        for expert in range(experts):
            own = f"{prefix}mlp.experts.{expert}."
            shapes[own + "gate_proj.weight"] = shapes[own + "up_proj.weight"] = (width, hidden)
            shapes[own + "down_proj.weight"] = (hidden, width)
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    generator = torch.Generator().manual_seed(0)
    tensors = {
        name: (torch.randn(shape, generator=generator) * 0.02 + (len(shape) == 1)).bfloat16()
        for name, shape in shapes.items()
    }
    save_file(tensors, folder / "model.safetensors")
    return vocab * hidden


MEASURED = """
import sys
from pathlib import Path
from moe_mobile.export import export_bundle
export_bundle(sys.argv[1], sys.argv[2], sys.argv[3])
status = Path("/proc/self/status").read_text()
print(next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM")))
"""


@pytest.mark.parametrize("quant", ["8da4w", pytest.param("fp32", marks=pytest.mark.slow)])
def test_peak_memory_does_not_grow_with_the_checkpoint(quant: str, tmp_path: Path) -> None:
    """Below 1.5 GB plus four times the float32 size of the largest program.

    The checkpoint's weights would take 1.2 GB in float32, on top of the toolchain's own 0.7.
    """
    source = tmp_path / "checkpoint"
    largest = write_large_checkpoint(source)
    assert (source / "model.safetensors").stat().st_size > 600e6
    result = subprocess.run(
        [sys.executable, "-c", MEASURED, str(source), str(tmp_path / "bundle"), quant],
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    peak = int(result.stdout.split()[-1]) * 1024
    print(f"{quant}: peak {peak / 1e6:.0f} MB")
    assert peak < 1.5e9 + 4 * 4 * largest
