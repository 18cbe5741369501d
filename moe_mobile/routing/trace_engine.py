# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""Router traces recorded by the engine, here or on a phone."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from moe_mobile.base.progress import Progress, part_of, silent
from moe_mobile.bundle import read_manifest
from moe_mobile.bundle.manifest import Manifest
from moe_mobile.bundle.quantization import quantization_name
from moe_mobile.device.interface import Device
from moe_mobile.errors import RuntimeFailedError
from moe_mobile.routing.trace import Trace, check_prompt, check_tokens, split
from moe_mobile.runner import Runner

# Logits of one request, which both sides hold in memory. Fewer tokens at once would have the same
# experts read more often.
_PART_BYTES = 8 << 20


def record_engine(
    device: Device,
    bundle: Path,
    token_ids: Sequence[int],
    *,
    settings: Mapping[str, Any],
    prompt_tokens: int = 0,
    progress: Progress = silent,
) -> Trace:
    """The router logits of these tokens, in sequences as long as the engine's context.

    Args:
        device: the bundle is sent to it first if it is missing there.
        settings: as in the runner's ``open`` request.
        prompt_tokens: see :class:`Trace`.
        progress: also called with the stage "trace", and tokens.

    Raises UsageError for token ids the model does not have and for prompts that are all there is,
    and what opening a bundle raises.
    """
    manifest = read_manifest(bundle)
    check_tokens(token_ids, manifest.model.vocab_size)
    layers = manifest.moe_layers
    experts = manifest.moe.num_experts
    logits = np.empty((len(token_ids), len(layers), experts), np.float32)
    part = max(1, _PART_BYTES // logits[:1].nbytes)
    folder = device.place(bundle, progress)
    with device.runner() as runner:
        info = runner.request("open", bundle=folder, settings=settings, progress=progress)
        sequences = split(len(token_ids), info["settings"]["context"])
        check_prompt(prompt_tokens, sequences)
        begin = 0
        for length in sequences:
            for at in range(begin, begin + length, part):
                end = min(at + part, begin + length)
                shape = (len(layers), end - at, experts)
                steps = part_of(progress, "trace", at, end, len(token_ids))
                rows = _request(runner, list(token_ids[at:end]), at > begin, shape, steps)
                logits[at:end] = rows.transpose(1, 0, 2)
            begin += length
    return Trace(
        router_logits=logits,
        token_ids=np.array(token_ids, np.uint32),
        sequences=sequences,
        layers=layers,
        top_k=manifest.moe.top_k,
        router=manifest.moe.router,
        model=manifest.model.name,
        source="engine",
        source_id=info["bundle_hash"],
        precision=computed_in(manifest, info["settings"]["precision"]),
        prompt_tokens=prompt_tokens,
    )


def computed_in(manifest: Manifest, setting: str) -> str:
    """The quantization that the engine's setting ``precision`` chooses."""
    if setting not in ("full", "low"):
        return f"{'+'.join(manifest.precisions)} {setting}"
    experts = manifest.precisions[0 if setting == "full" else -1]
    parts = manifest.quantization
    return quantization_name(experts, parts.dense, parts.head)


def _request(
    runner: Runner,
    token_ids: list[int],
    continues: bool,
    shape: tuple[int, int, int],
    progress: Progress,
) -> NDArray[np.float32]:
    answer = runner.request("trace", token_ids=token_ids, continues=continues, progress=progress)
    try:
        data = base64.b64decode(answer["router_logits"], validate=True)
        logits = np.frombuffer(data, "<f4").reshape(shape)
        if not np.isfinite(logits).all():
            raise ValueError("some are NaN or infinite")
        return logits
    except (KeyError, TypeError, ValueError) as error:
        raise RuntimeFailedError(
            f"moe_runner did not give the router logits of {len(token_ids)} tokens: {error}",
            file=runner.name,
            remedy=runner.remedy("Run `moe-mobile doctor`; the engine may be of another version"),
        ) from error
