# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""Experts made at once: their order, the memory they take, and what is written."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
import torch

from moe_mobile.bundle.quantization import Quant
from moe_mobile.export import export_bundle, parallel
from moe_mobile.export.parallel import in_order, one_thread_each, workers_for
from moe_mobile.export.programs import ExpertShape
from moe_mobile.export.quantization import Encoding
from tests.bundles import FEW_ROWS, BundleMaker, CheckpointMaker
from tests.files import contents


@pytest.mark.parametrize("workers", [1, 4])
def test_the_bytes_do_not_depend_on_the_workers(
    workers: int,
    checkpoint: CheckpointMaker,
    bundle: BundleMaker,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: set[str] = set()
    two = threading.Event()
    pack = torch.Tensor.amax

    def watched(*arguments: object, **named: object) -> torch.Tensor:
        name = threading.current_thread().name
        if name.startswith("export"):
            seen.add(name)
            if len(seen) == min(workers, 2):
                two.set()
            assert two.wait(1200)  # the first thread's packing ends only once another one packs
        return pack(*arguments, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(torch.Tensor, "amax", watched)
    monkeypatch.setattr(parallel, "cores", lambda: workers)
    out = export_bundle(checkpoint("qwen3_moe"), tmp_path / "out", "8da4w", max_batch=FEW_ROWS)
    assert contents(out) == contents(bundle("qwen3_moe", "8da4w"))
    assert min(workers, 2) <= len(seen) <= workers


def test_as_many_are_made_at_once_as_there_are_workers() -> None:
    all_at_once = threading.Barrier(3, timeout=1200)  # raises if fewer come
    assert sorted(in_order(lambda _: all_at_once.wait(), range(3), 3)) == [0, 1, 2]


def test_results_come_in_order_whatever_is_ready_first() -> None:
    ready = [threading.Event() for _ in range(4)]

    def make(item: int) -> int:
        if item == 0:  # ends last of those made at once
            assert ready[1].wait(1200)
        if item < len(ready):
            ready[item].set()
        return item * item

    assert list(in_order(make, range(20), 4)) == [i * i for i in range(20)]


def test_only_a_few_items_are_begun_before_the_first_is_taken() -> None:
    begun: list[int] = []
    results = in_order(lambda item: begun.append(item), range(100), 3)
    next(results)
    # None is begun while the consumer has one: those in flight are all that can come.
    results.close()
    assert len(begun) <= 3 + 2


def test_an_error_ends_the_work() -> None:
    begun: list[int] = []

    def make(item: int) -> int:
        begun.append(item)
        if item == 3:
            raise ValueError("three")
        return item

    results = in_order(make, range(100), 2)
    assert [next(results), next(results), next(results)] == [0, 1, 2]
    with pytest.raises(ValueError, match="three"):
        next(results)
    assert len(begun) <= 8


def test_threads_of_pytorch_are_one_each_and_as_before_afterwards() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        with one_thread_each():
            assert list(in_order(lambda _: torch.get_num_threads(), range(4), 2)) == [1] * 4
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)


def test_large_experts_are_made_fewer_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parallel, "cores", lambda: 64)

    def workers(hidden: int, width: int, quant: Quant = Quant.INT4) -> int:
        encoding = Encoding(quant, 32 if quant is Quant.INT4 else 0)
        return workers_for(ExpertShape(hidden=hidden, width=width, encoding=encoding, max_rows=8))

    assert workers(2048, 768) == 64  # Qwen3-30B-A3B
    assert 1 < workers(4096, 14336) < 5  # Mixtral-8x7B
    assert workers(4096, 14336, Quant.FP32) == 1
