# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""A search on a Ray cluster finds what one on this machine's processes finds."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from moe_mobile.base.progress import silent
from moe_mobile.errors import KilledError, UnsupportedError, UsageError
from moe_mobile.quality.engine import EngineSource
from moe_mobile.quality.score import Cache
from moe_mobile.tune.ray_cluster import check_ray, score_on_ray
from tests.bundles import BundleMaker
from tests.cli.program import failed, ok_json

IDS = [(7 * n * n + n) % 90 for n in range(200)]


@pytest.fixture(scope="module")
def cluster() -> Iterator[str]:
    """The address of a cluster of two machines with a worker each, both of them this one."""
    ray_utils = pytest.importorskip("ray.cluster_utils", reason="ray is not installed")
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    made = ray_utils.Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    made.add_node(num_cpus=1)
    yield made.address
    made.shutdown()


@pytest.fixture(scope="module")
def tiny(bundle: BundleMaker) -> Path:
    return bundle("qwen3_moe")


def test_the_same_table(cluster: str, tiny: Path, tmp_path: Path) -> None:
    text = ("--token-ids", ",".join(map(str, IDS)), "--cache", "50%,75%")
    grid = ("--routing", "cache-prior:0.2,J=1,max-rank:3", "--drop-cold", "0.5")
    rows = tmp_path / "rows.jsonl"
    on_ray = ok_json("tune", tiny, *text, *grid, "--ray", cluster, "--out", rows)
    here = ok_json("tune", tiny, *text, *grid, "--jobs", 2)
    assert len(here["rows"]) == 12
    assert on_ray == here
    # Each is on disk when it is there.
    assert len({json.loads(line)["key"] for line in rows.read_text().splitlines()}) == 12


def test_errors_are_those_of_the_work(cluster: str, tiny: Path) -> None:
    import ray

    ray.init(address=cluster, log_to_driver=False, logging_level="ERROR")
    try:
        source = EngineSource(str(tiny), None, (("threads", 1),))
        workers = score_on_ray(source, "auto", None)
        with pytest.raises(UsageError, match="token 5000 is outside"):
            list(workers([1, 5000], [Cache("exact", 4)], silent))
        dying = score_on_ray(_Dying(), "auto", None)  # type: ignore[arg-type]
        with pytest.raises(KilledError, match="a worker ended"):
            list(dying([1, 2], [Cache("exact", 4)], silent))
    finally:
        ray.shutdown()


class _Dying:
    def open(self) -> None:
        os._exit(1)


def test_a_missing_cluster_and_a_missing_ray(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = ("tune", tiny, "--token-ids", "1,2,3", "--routing", "exact")
    error = failed(10, *asked, "--ray", "127.0.0.1:9")
    assert "no Ray cluster" in error["cause"]
    assert "ray start" in error["remedy"]
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UnsupportedError, match="ray is not installed"):
        check_ray()
