# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""Whole exports of tiny checkpoints: what is in the bundle, what is refused, what continues."""

from __future__ import annotations

import functools
import json
import pickle
import shutil
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models

from moe_mobile import export
from moe_mobile.bundle import manifest as m
from moe_mobile.bundle import read_manifest, verify_bundle
from moe_mobile.bundle.quantization import QuantizationSettings, embedding_row_bytes
from moe_mobile.cli import cli
from moe_mobile.errors import (
    BudgetError,
    CancelledError,
    CheckpointError,
    MoeMobileError,
    UnsupportedError,
    UsageError,
)
from moe_mobile.export import RandomWeights
from moe_mobile.export.embedding import encode_rows
from moe_mobile.model.names import TensorRef
from moe_mobile.model.safetensors import SafetensorsStore
from tests.bundles import FEW_ROWS, BundleMaker, CheckpointMaker
from tests.files import contents
from tests.oracles.interpreter import Interpreter
from tests.tiny import (
    EXPERTS,
    FAMILIES,
    TOP_K,
    load_checkpoint,
    tiny_model,
    tiny_prompt,
)
from tests.tokenizers import add_members

# Programs that other tests have lowered already.
export_bundle = functools.partial(export.export_bundle, max_batch=FEW_ROWS)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_bundle_is_whole(family: str, checkpoint: CheckpointMaker, bundle: BundleMaker) -> None:
    path = bundle(family, "fp32")
    verify_bundle(path)
    manifest = read_manifest(path)
    assert {file.path for file in manifest.all_files()} | {"bundle.json"} == set(contents(path))
    model = load_checkpoint(checkpoint(family))  # a tied head counts once
    biases = [b for name, b in model.named_buffers() if name.endswith("expert_bias")]
    parameters = [*model.parameters(), *biases]
    assert manifest.model.num_parameters == sum(p.numel() for p in parameters)
    assert manifest.model.family == family
    assert (manifest.model.bos_token_id, manifest.model.eos_token_ids) == (1, (2,))
    assert (manifest.moe.num_experts, manifest.moe.top_k) == (EXPERTS, TOP_K)
    assert manifest.attention.kv_dtype == "float32"
    assert manifest.quantization.group_size == 0
    assert manifest.max_batch == FEW_ROWS
    memory = manifest.memory
    assert memory.token_cycle_bytes == len(manifest.moe_layers) * TOP_K * memory.expert_bytes
    for name in ("config.json", "generation_config.json"):
        assert (path / name).read_bytes() == (checkpoint(family) / name).read_bytes()


def test_renormalisation_and_windows_reach_the_manifest(bundle: BundleMaker) -> None:
    found = {}
    for family in FAMILIES:
        manifest = read_manifest(bundle(family, "fp32"))
        mixers = [layer.mixer for layer in manifest.layers]
        assert all(
            isinstance(mixer, m.ConvolutionMixer) or mixer.head_dim is None for mixer in mixers
        )
        windows = tuple(
            mixer.window if isinstance(mixer, m.AttentionMixer) else "convolution"
            for mixer in mixers
        )
        found[family] = (manifest.moe.router.renormalize, windows)
    assert found == {
        "mixtral": (True, (12, 12)),
        "qwen2_moe": (False, (0, 0)),
        "qwen3_moe": (True, (0, 0)),
        "olmoe": (False, (0, 0)),
        "lfm2_moe": (True, ("convolution", "convolution", 0, "convolution")),
    }


def test_equal_inputs_give_equal_bytes(
    checkpoint: CheckpointMaker, bundle: BundleMaker, tmp_path: Path
) -> None:
    first = bundle("mixtral", "fp32")
    second = export_bundle(checkpoint("mixtral"), tmp_path / "x" / "other", "fp32")
    assert contents(first) == contents(second)
    assert str(tmp_path).encode() not in (second / "bundle.json").read_bytes()


def test_left_out_tensors_are_listed_once(
    checkpoint: CheckpointMaker, bundle: BundleMaker, tmp_path: Path
) -> None:
    folder = shutil.copytree(checkpoint("mixtral"), tmp_path / "mixtral")
    file = folder / "model.safetensors"
    save_file(load_file(file) | {"lora_A.weight": torch.ones(2)}, file, {"format": "pt"})
    out = tmp_path / "bundle"
    result = CliRunner().invoke(
        cli, ["export", str(folder), str(out), "--quant", "fp32", "--max-batch", str(FEW_ROWS)]
    )
    assert result.exit_code == 0, result.output
    (warning,) = [line for line in result.stderr.splitlines() if "tensors of the" in line]
    assert warning.endswith("left out as transformers does: lora_A.weight")
    expected = {k: v for k, v in contents(bundle("mixtral", "fp32")).items() if k.endswith(".pte")}
    assert {k: v for k, v in contents(out).items() if k.endswith(".pte")} == expected


def test_a_missing_tokenizer_is_said_before_weights_are_read(
    checkpoint: CheckpointMaker, tmp_path: Path
) -> None:
    folder = shutil.copytree(checkpoint("mixtral"), tmp_path / "mixtral")
    (folder / "model.safetensors").write_bytes(b"broken")
    said = "the checkpoint has no tokenizer.json: the bundle will take token ids, but no text"
    with pytest.warns(UserWarning, match=said) as caught, pytest.raises(CheckpointError):
        export_bundle(folder, tmp_path / "bundle", "fp32")
    assert caught[0].filename == __file__
    # At once: an export may take hours.
    result = CliRunner().invoke(cli, ["export", str(folder), str(tmp_path / "bundle")])
    assert result.exit_code == CheckpointError.exit_code
    assert result.stderr.splitlines()[0].startswith(f"warning: {said}")
    Tokenizer(models.BPE({"a": 0}, [])).save(str(folder / "tokenizer.json"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(CheckpointError):
            export_bundle(folder, tmp_path / "bundle", "fp32")


def test_stop_strings_are_said_before_weights_are_read(
    checkpoint: CheckpointMaker, tmp_path: Path
) -> None:
    folder = shutil.copytree(checkpoint("mixtral"), tmp_path / "mixtral")
    (folder / "model.safetensors").write_bytes(b"broken")
    Tokenizer(models.BPE({"a": 0}, [])).save(str(folder / "tokenizer.json"))
    add_members(folder / "generation_config.json", {"stop_strings": ["User:"]})
    said = "generation_config.json has stop_strings, at which answers do not end"
    with pytest.warns(UserWarning, match=said) as caught, pytest.raises(CheckpointError):
        export_bundle(folder, tmp_path / "bundle", "fp32")
    assert caught[0].filename == __file__


@pytest.mark.slow
def test_quantizations_are_independent(checkpoint: CheckpointMaker, tmp_path: Path) -> None:
    out = export_bundle(
        checkpoint("mixtral"),
        tmp_path / "bundle",
        QuantizationSettings("8da4w", dense="fp32", head="8da8w", embedding="fp32"),
    )
    verify_bundle(out)
    manifest = read_manifest(out)
    quantization = manifest.quantization
    assert (quantization.experts, quantization.dense, quantization.head) == (
        "8da4w",
        "fp32",
        "8da8w",
    )
    assert (quantization.embedding, quantization.group_size) == ("fp32", 32)
    assert manifest.attention.kv_dtype == "float32"
    ids = tiny_prompt(16)
    with torch.no_grad():
        exact = load_checkpoint(checkpoint("mixtral"))(torch.tensor([ids])).logits[0]
    errors = (Interpreter(out).logits(ids) - exact).abs() / exact.abs().max()
    # Far from exact, far from noise.
    assert 1e-4 < float(errors.median()) < 0.05


@pytest.mark.parametrize(
    ("group_size", "layer"), [(64, "expert: down.weight has 32"), (128, "MoE layer: qkv.q.weight")]
)
def test_a_group_size_that_does_not_fit(
    group_size: int, layer: str, checkpoint: CheckpointMaker, tmp_path: Path
) -> None:
    with pytest.raises(UnsupportedError, match=layer) as caught:
        export_bundle(
            checkpoint("mixtral"),
            tmp_path / "out",
            QuantizationSettings("8da4w", group_size=group_size),
        )
    assert "`group_size`" in (caught.value.remedy or "")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("formats", "delegate", "cause"),
    [
        ({}, "expert_delegate", "quant: 8da4w programs"),
        ({}, "dense_delegate", "dense: 8da8w programs"),
        ({"dense": "fp32", "head": "8da8w"}, "dense_delegate", "head: 8da8w programs"),
    ],
    ids=str,
)
def test_portable_programs_are_not_quantized(
    formats: dict[str, str], delegate: str, cause: str, tmp_path: Path
) -> None:
    quant = QuantizationSettings(**formats)  # type: ignore[arg-type]
    options = {delegate: "portable"}
    with pytest.raises(UnsupportedError, match=cause) as caught:
        export_bundle(tmp_path / "nothing", tmp_path / "out", quant, **options)  # type: ignore[arg-type]
    assert "fp32" in (caught.value.remedy or "")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("options", "cause"),
    [
        ({"quant": "int4"}, "^quant: invalid value 'int4'"),
        ({"quant": "8da8w+8da4w"}, "^quant: .*Use one of fp32, 8da8w, 8da4w, 8da4w.8da8w$"),
        ({"quant": QuantizationSettings(dense="8da4w+8da8w")}, "^dense: invalid value"),
        ({"quant": QuantizationSettings(dense="q4")}, "^dense: invalid value 'q4'"),
        ({"quant": QuantizationSettings(head="")}, None),
        ({"quant": QuantizationSettings(embedding="8da4w")}, "^embedding: invalid value '8da4w'"),
        ({"quant": QuantizationSettings(group_size=48)}, "^group_size: invalid value 48"),
        (
            {"quant": QuantizationSettings("8da8w", group_size=64)},
            "^group_size: it is for 8da4w",
        ),
        ({"quant": QuantizationSettings("8da4w", group_size=64)}, None),
        ({"quant": QuantizationSettings("fp32", dense="8da4w", group_size=64)}, None),
        ({"quant": QuantizationSettings("fp32", also_quant="8da4w", group_size=32)}, None),
        ({"quant": QuantizationSettings(also_quant="")}, "^also_quant: invalid value ''"),
        ({"quant": QuantizationSettings(also_quant="8da4w")}, "^also_quant: .* in 8da4w already"),
        ({"max_batch": 0}, "^max_batch: invalid value 0"),
        ({"max_batch": 4097}, "^max_batch: invalid value 4097"),
        ({"dense_delegate": "qnn"}, "^dense_delegate: invalid value 'qnn'.*one of xnnpack, port"),
        ({"expert_delegate": ""}, "^expert_delegate: invalid value ''"),
    ],
    ids=str,
)
def test_options_that_make_no_sense(
    options: dict[str, object], cause: str | None, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=cause or "no such checkpoint folder"):
        export_bundle(tmp_path / "nothing", tmp_path / "out", **options)  # type: ignore[arg-type]


def test_existing_bundles_are_overwritten_on_demand_only(
    checkpoint: CheckpointMaker, bundle: BundleMaker, tmp_path: Path
) -> None:
    out = tmp_path / "bundle"
    export_bundle(checkpoint("olmoe"), out, "fp32")
    before = contents(out)
    with pytest.raises(UsageError, match="already exists"):
        export_bundle(checkpoint("mixtral"), out, "fp32")
    assert contents(out) == before
    export_bundle(checkpoint("mixtral"), out, "fp32", overwrite=True)
    assert contents(out) == contents(bundle("mixtral", "fp32"))
    assert [entry.name for entry in tmp_path.iterdir()] == ["bundle"]


def test_progress_counts_up_to_the_total(checkpoint: CheckpointMaker, tmp_path: Path) -> None:
    seen: list[tuple[str, int, int, str]] = []
    export_bundle(
        checkpoint("mixtral"), tmp_path / "out", "fp32", progress=lambda *step: seen.append(step)
    )
    done = [step[1] for step in seen]
    assert done == sorted(done)
    total = 2 * EXPERTS
    assert {step[2] for step in seen} == {total}
    assert seen[-1] == ("export", total, total, "done")
    assert "layer 1, expert 7" in [step[3] for step in seen]


@pytest.mark.parametrize("stop", [0, 3, 8, 11, 15, 16])
def test_an_interrupted_export_continues(
    stop: int, checkpoint: CheckpointMaker, bundle: BundleMaker, tmp_path: Path
) -> None:
    out = tmp_path / "out"

    def interrupt(stage: str, done: int, total: int, detail: str = "") -> None:
        if done >= stop and (", expert " in detail or stop == total):
            raise KeyboardInterrupt

    with pytest.raises(CancelledError) as caught:
        export_bundle(checkpoint("mixtral"), out, "fp32", progress=interrupt)
    assert caught.value.exit_code == 130
    assert not out.exists()
    steps: list[tuple[str, int, int, str]] = []
    export_bundle(checkpoint("mixtral"), out, "fp32", progress=lambda *step: steps.append(step))
    assert contents(out) == contents(bundle("mixtral", "fp32"))
    # What was finished is not made again, and counts from the start.
    assert steps[0][1] == stop
    made = [step[3] for step in steps if ", expert " in step[3]]
    layers = [f"layer {layer}, expert {i}" for layer in range(2) for i in range(EXPERTS)]
    assert made == layers[stop:]


def test_memory_that_runs_out_is_a_typed_error_and_the_export_continues(
    checkpoint: CheckpointMaker,
    bundle: BundleMaker,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    out = tmp_path / "out"
    read = SafetensorsStore.read

    def allocate(store: SafetensorsStore, ref: TensorRef) -> torch.Tensor:
        if "layers.1." in ref.name and ".experts." in ref.name:
            torch.empty(1 << 60, dtype=torch.int8)
        return read(store, ref)

    with monkeypatch.context() as patch:
        patch.setattr(SafetensorsStore, "read", allocate)
        with pytest.raises(BudgetError, match="not enough memory to export it") as caught:
            export_bundle(checkpoint("mixtral"), out, "fp32")
    assert caught.value.file == str(out)
    assert "Run it again to continue" in (caught.value.remedy or "")
    export_bundle(checkpoint("mixtral"), out, "fp32")
    assert contents(out) == contents(bundle("mixtral", "fp32"))


def test_a_broken_tensor_is_named_and_leaves_no_bundle(tmp_path: Path) -> None:
    source = tmp_path / "checkpoint"
    model = tiny_model("qwen3_moe")
    with torch.no_grad():
        model.model.layers[1].mlp.experts.down_proj[3, 5, 7] = float("nan")
    model.save_pretrained(source)
    with pytest.raises(CheckpointError, match=r"layers\.1\.mlp\.experts\.3\.down_proj.*NaN"):
        export_bundle(source, tmp_path / "out", "fp32")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "errors", [(UsageError, 2), (UnsupportedError, 3), (CheckpointError, 11), (CancelledError, 130)]
)
def test_exit_codes(errors: tuple[type[MoeMobileError], int]) -> None:
    kind, code = errors
    error = kind("cause", file="file", remedy="Remedy")
    assert (error.exit_code, str(error)) == (code, "file: cause. Remedy")
    assert error.as_dict()["code"] == kind.code
    about = kind("cause", setting="cache", remedy="Remedy")
    assert str(about) == "cache: cause. Remedy"
    assert (about.as_dict()["file"], about.as_dict()["setting"]) == (None, "cache")
    again = pickle.loads(pickle.dumps(about))
    assert (type(again), again.as_dict()) == (kind, about.as_dict())


@pytest.mark.slow
def test_random_weights(tmp_path: Path) -> None:
    out = export_bundle(
        RandomWeights("OLMoE-1B-7B", layers=1, vocab_size=64), tmp_path / "out", "8da4w"
    )
    verify_bundle(out)
    manifest = read_manifest(out)
    assert (manifest.model.hidden_size, manifest.moe.intermediate_size) == (2048, 1024)
    assert manifest.moe.num_experts == 64
    assert [file.path for file in manifest.files] == ["config.json"]
    assert json.loads((out / "config.json").read_text())["num_hidden_layers"] == 1
    logits = Interpreter(out).logits([5, 6, 7])
    assert torch.isfinite(logits).all()
    assert 0.1 < float(logits.std()) < 10


@pytest.mark.parametrize("hidden", [1, 3, 4, 30, 64])
def test_embedding_rows(hidden: int) -> None:
    rows = torch.randn(9, hidden, generator=torch.Generator().manual_seed(hidden))
    rows[4] = 0
    assert np.frombuffer(encode_rows(rows, "fp32"), "<f4").tolist() == rows.reshape(-1).tolist()
    width = embedding_row_bytes("int8", hidden)
    assert width % 4 == 0
    data = np.frombuffer(encode_rows(rows, "int8"), np.uint8).reshape(9, width)
    for row, encoded in zip(rows, data, strict=True):
        (scale,) = np.frombuffer(encoded[-4:].tobytes(), "<f4")
        values = encoded[:hidden].view(np.int8) * scale
        assert np.abs(values - row.numpy()).max() <= scale * 0.5001
        assert scale == pytest.approx(float(row.abs().max()) / 127 or 1.0)
        assert not encoded[hidden:-4].any()


@pytest.mark.parametrize("largest", [1.5e-36, 1.4e-36, 1e-40, 1e-43, 1.4e-45])
@pytest.mark.filterwarnings("error")
def test_the_scale_of_a_tiny_row_is_a_normal_number(largest: float) -> None:
    row = torch.tensor([[largest, -largest, 0.0, largest / 2]])
    data = np.frombuffer(encode_rows(row, "int8"), np.uint8)
    (scale,) = np.frombuffer(data[-4:].tobytes(), "<f4")
    assert scale >= np.finfo(np.float32).tiny
    assert np.abs(data[:4].view(np.int8) * scale - row.numpy()).max() <= scale * 0.5001
