# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""ExecuTorch's line per run, ``PyTorchObserver {json}``, for the tools that read it.

Keys and units are those of its llama runner (extension/llm/runner/stats.h): milliseconds since
1970, tokens per second. Keys of our own come last: how experts were chosen.
"""

from __future__ import annotations

from typing import Any

from moe_mobile.base.json_text import json_text
from moe_mobile.bench.row import Row


def observer_lines(result: Row) -> list[str]:
    """A line per repetition of a row that decoded tokens; none for others.

    Tokens are drawn beforehand, so no time goes into sampling.
    """
    if not result.n_gen:
        return []
    lines = []
    routing: dict[str, Any] = {
        "routing": result.routing["resolved"],
        "lossy": result.routing["lossy"],
    }
    trace = result.regime.get("router_trace")  # not in early rows
    if trace is not None:
        routing["router_trace"] = trace["name"]
    for run, total_ns, gaps in zip(result.runs, result.samples_ns, result.itl_ns, strict=True):
        start = run["start_ms"]
        gen_ns = sum(gaps)
        prompt_ns = total_ns - gen_ns
        prompt_end = start + prompt_ns / 1e6
        first = prompt_end if result.n_prompt else start + gaps[0] / 1e6
        answer = {
            "prompt_tokens": result.n_prompt,
            "generated_tokens": result.n_gen,
            "model_load_start_ms": run["load_start_ms"],
            "model_load_end_ms": run["load_end_ms"],
            "inference_start_ms": start,
            "inference_end_ms": round(start + total_ns / 1e6),
            "prompt_eval_end_ms": round(prompt_end),
            "first_token_ms": round(first),
            "aggregate_sampling_time_ms": 0,
            "prefill_token_per_sec": result.n_prompt * 1e9 / prompt_ns if prompt_ns else 0.0,
            "decode_token_per_sec": result.n_gen * 1e9 / gen_ns,
            **routing,
        }
        lines.append(f"PyTorchObserver {json_text(answer)}")
    return lines
