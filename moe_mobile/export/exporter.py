# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""Exporting a model into a bundle."""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import os
import warnings
from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import torch

from moe_mobile.base.files import HashingFile, reading
from moe_mobile.base.json_field import JsonField
from moe_mobile.base.memory import REMEDY, memory_to
from moe_mobile.base.pins import executorch_version
from moe_mobile.base.progress import Progress, silent
from moe_mobile.base.tokenizer import TOKENIZER
from moe_mobile.bundle import manifest as m
from moe_mobile.bundle.quantization import (
    DEFAULT_QUANT,
    Quant,
    QuantizationSettings,
    embedding_row_bytes,
)
from moe_mobile.bundle.writer import to_bytes
from moe_mobile.errors import (
    BundleInvalidError,
    CancelledError,
    UnsupportedError,
    UsageError,
    shortened,
)
from moe_mobile.export import lowering, sources
from moe_mobile.export.embedding import ROWS_AT_ONCE, encode_rows
from moe_mobile.export.inputs import Inputs
from moe_mobile.export.options import Options, resolve_options
from moe_mobile.export.parallel import in_order, one_thread_each, workers_for
from moe_mobile.export.plan import Plan, make_plan
from moe_mobile.export.shapes import ProgramShape
from moe_mobile.export.sources import Sources
from moe_mobile.export.space import bundle_bytes
from moe_mobile.export.template import Block, Programs
from moe_mobile.export.workspace import (
    Record,
    Workspace,
    open_workspace,
    refusal,
    refuse_early,
    refuse_other,
    refuse_without_room,
)
from moe_mobile.model.architecture import Attention, Convolution
from moe_mobile.model.name_list import listed
from moe_mobile.model.names import TensorRef
from moe_mobile.model.presets import RandomWeights
from moe_mobile.model.safetensors import INDEX_FILE, SINGLE_FILE
from moe_mobile.model.source import DEMO, Description, OpenModel, SourceLike, open_model

_GENERATION = "generation_config.json"
_TO_CALLER = 4  # from what is called when a source is opened, to who called export_bundle


def export_bundle(
    source: SourceLike,
    out: str | os.PathLike[str],
    quant: str | QuantizationSettings = DEFAULT_QUANT,
    *,
    max_batch: int | None = None,
    dense_delegate: str = m.XNNPACK,
    expert_delegate: str = m.XNNPACK,
    name: str | None = None,
    overwrite: bool = False,
    progress: Progress = silent,
) -> Path:
    """Exports a Mixture-of-Experts model into a bundle of ExecuTorch programs.

    An interrupted export continues where it stopped when it is called again with the same
    arguments, also inside a layer; until it is complete its files lie in ``OUT.partial``. A copy of
    the checkpoint continues it too: what was made is compared with the copy's weights then.

    Several experts are made at once, one on each core that the process may use, and PyTorch runs
    with one thread meanwhile. The bundle's bytes do not depend on it.

    Args:
        source: a folder with a Hugging Face checkpoint, a Hugging Face model id, ``"demo"``, or
            :class:`~moe_mobile.model.presets.RandomWeights`.
        out: the bundle's folder.
        quant: how weights are stored; a text such as ``"8da8w"`` is the format of everything but
            the embedding, ``"8da4w+8da8w"`` (the default) that of the experts and of the others.
        max_batch: largest number of rows per call of a program, by default 256.
        dense_delegate: what runs the layers' dense programs and the head: ``xnnpack``, or
            ``portable`` for ExecuTorch's own kernels, which take fp32 only and are much slower.
        expert_delegate: the same for the experts. Without XNNPACK they cannot be streamed into
            slots: the engine then loads a whole program per expert (residency ``programs``).
        name: the model's name in the bundle.
        overwrite: replace an existing bundle, and delete an interrupted export of another
            checkpoint or with other options.
        progress: called before each program and once at the end, with the stage "export". It
            counts experts, from those that an earlier run made; its detail is what is being made.
            Before it the stage "compare" counts what is compared with a copy's weights.

    Returns:
        The bundle's path.

    Warns:
        UserWarning: the checkpoint has no ``tokenizer.json``, or texts at which answers should end
            (``stop_strings``), said before its weights are read; or it holds tensors that the model
            does not have.

    Raises:
        UsageError: arguments that make no sense, a target that exists, or an interrupted export of
            another checkpoint or with other options that is in the way.
        UnsupportedError: a model or option combination that cannot be exported.
        CheckpointError: a broken checkpoint.
        DiskFullError: the disk has not enough room for what is missing, found before any work, or
            it has filled up since.
        ReadOnlyError, IoError: writing or reading failed.
        BudgetError: there is not enough memory; calling again continues.
        CancelledError: interrupted from the keyboard; calling again continues.
    """
    options = resolve_options(
        quant,
        max_batch=max_batch,
        dense_delegate=dense_delegate,
        expert_delegate=expert_delegate,
    )
    _refuse_bundle(source)
    _require_executorch()
    target = Path(out).absolute()
    refuse_early(target, overwrite=overwrite)

    def judge(found: Description) -> None:
        _check_name(found.architecture.name)
        plan = make_plan(found.architecture, options)
        inputs = _inputs(found.fingerprint(), None, options)
        refuse_other(target, inputs, overwrite=overwrite)
        refuse_without_room(target, bundle_bytes(found, options, plan), found.download)
        if TOKENIZER not in found.files and not isinstance(source, RandomWeights):
            warnings.warn(
                f"the checkpoint has no {TOKENIZER}: the bundle will take token ids, but no text "
                "and no chat. To have it, load the tokenizer with transformers and save it into "
                "the checkpoint's folder (AutoTokenizer.from_pretrained, save_pretrained)",
                stacklevel=_TO_CALLER,
            )
        if found.note is not None:
            warnings.warn(found.note, stacklevel=_TO_CALLER)
        if json.loads(found.files.get(_GENERATION, b"{}")).get("stop_strings"):
            warnings.warn(
                f"{_GENERATION} has stop_strings, at which answers do not end: only the tokens of "
                "eos_token_id end them. If a stop string is one token, add its id there",
                stacklevel=_TO_CALLER,
            )

    with _typed_ends(target):
        model = open_model(source, name=name, judge=judge)
        plan = make_plan(model.architecture, options)
        inputs = replace(
            _inputs(model.described(), model.store.fingerprint(), options),
            written=model.store.written(),
            source=model.label,
            name=model.architecture.name,
        )
        if unused := model.unused():
            warnings.warn(
                f"{len(unused)} tensors of the checkpoint are not part of the model, and are left "
                f"out as transformers does: {shortened(listed(unused))}",
                stacklevel=2,
            )
        needed = bundle_bytes(model, options, plan)
        with open_workspace(target, inputs, overwrite=overwrite, needed=needed) as workspace:
            if workspace is not None:
                with one_thread_each():
                    made_of = Sources(model, options.variants)
                    changed = made_of.changed(workspace, progress)
                    if changed and not overwrite:
                        raise refusal(target, "of weights that have changed since")
                    for path in changed:
                        workspace.forget(path)
                    _Export(model, options, plan, made_of, workspace, progress).run(target)
    return target


@contextlib.contextmanager
def _typed_ends(target: Path) -> Iterator[None]:
    """An export that is interrupted, or runs out of memory, ends with a typed error."""
    try:
        with memory_to("export it", target, f"{REMEDY}. Run it again to continue"):
            yield
    except KeyboardInterrupt:
        raise CancelledError(
            "export interrupted", file=target, remedy="Run it again to continue"
        ) from None


@dataclass
class _Export:
    """One run of an export; every file is skipped if an earlier run finished it."""

    _model: OpenModel
    _options: Options
    _plan: Plan
    _sources: Sources
    _workspace: Workspace
    _progress: Progress
    _programs: dict[ProgramShape, Programs] = field(default_factory=dict)
    _done: int = 0

    def __post_init__(self) -> None:
        count = self._model.architecture.moe.num_experts
        shards = [
            self._shard_path(index, variant)
            for index, layer in enumerate(self._model.architecture.layers)
            if layer.is_moe
            for variant in range(len(self._plan.experts))
        ]
        self._total = count * len(shards)
        self._done = sum(
            count if self._workspace.finished(path) else self._workspace.unfinished(path)
            for path in shards
        )

    def run(self, out: Path) -> None:
        layers = []
        embedding = self._embedding()
        for index, spec in enumerate(self._model.architecture.layers):
            dense = self._layer(index)
            experts = self._experts(index) if spec.is_moe else None
            layers.append(m.Layer(self._mixer(spec.mixer), dense, experts))
        # The largest program of all: nothing else of size is held with it.
        self._programs.clear()
        head = self._head()
        files = tuple(self._copy(name) for name in sorted(self._model.files))
        manifest = self._manifest(embedding, tuple(layers), head, files)
        self._report("finishing")
        self._workspace.complete(out, to_bytes(manifest))
        self._report("done")

    def _embedding(self) -> m.Embedding:
        ref = self._model.tensors.embedding()
        rows, hidden = ref.shape
        dtype = self._options.embedding

        def fill(file: HashingFile) -> None:
            for begin in range(0, rows, ROWS_AT_ONCE):
                part = self._model.store.read(
                    ref.slice_rows(begin, min(begin + ROWS_AT_ONCE, rows))
                )
                file.write(encode_rows(part, dtype))

        record = self._write(sources.EMBEDDING_FILE, "embedding", fill)
        return m.Embedding(
            **_file(record), dtype=dtype, row_bytes=embedding_row_bytes(dtype, hidden)
        )

    def _layer(self, index: int) -> m.DenseProgram:
        shape = self._plan.layers[index]

        def fill(file: HashingFile) -> None:
            made = self._of_shape(shape)
            made.prepare()
            weights = _Weights(self._model, self._model.tensors.layer(index))
            for piece in made.pieces(weights, made.blocks(weights)):
                file.write(piece)

        record = self._write(sources.layer_file(index), f"layer {index}", fill)
        return m.DenseProgram(**_file(record), delegate=self._own(shape.delegate))

    def _own(self, delegate: str) -> str | None:
        """What a program's entry says of its delegate: nothing if it is the manifest's."""
        return None if delegate == self._options.expert_delegate else delegate

    def _mixer(self, mixer: Attention | Convolution) -> m.Mixer:
        if isinstance(mixer, Convolution):
            return m.ConvolutionMixer(mixer.kernel, self._model.architecture.hidden_size)
        common = self._model.architecture.attention
        own = {
            name: getattr(mixer, name)
            for name in ("num_heads", "num_kv_heads", "head_dim", "scale", "rope")
            if getattr(mixer, name) != getattr(common, name)
        }
        return m.AttentionMixer(mixer.window, **own)

    def _experts(self, index: int) -> m.Experts:
        variants = []
        shard = self._shard(index, 0)
        for number, quant in enumerate(self._options.variants, 1):
            group = self._options.group_size if quant == Quant.INT4 else None
            variants.append(
                m.Variant(**vars(self._shard(index, number)), quantization=quant, group_size=group)
            )
        return m.Experts(**vars(shard), variants=tuple(variants))

    def _shard(self, index: int, variant: int) -> m.Shard:
        """A layer's experts in one precision."""
        path = self._shard_path(index, variant)
        record = self._workspace.finished(path)
        if record is None:
            wanted = self._workspace.unfinished(path)

            def programs(found: int) -> Generator[tuple[list[memoryview], int], None, None]:
                self._done -= wanted - found  # damaged
                return self._expert_programs(index, variant, found)

            record = self._workspace.write_shard(path, programs)
        entries = tuple(
            m.Program(program["offset"], program["bytes"], program["sha256"])
            for program in record["programs"]
        )
        return m.Shard(**_file(record), programs=entries)

    def _shard_path(self, index: int, variant: int) -> str:
        return sources.shard_file(index, self._options.variants[variant - 1] if variant else "")

    def _expert_programs(
        self, index: int, variant: int, first: int
    ) -> Generator[tuple[list[memoryview], int], None, None]:
        """The programs of a layer's experts from ``first`` on, in pieces, with their sources."""
        shape = self._plan.experts[variant]
        made = self._of_shape(shape)
        made.prepare()
        which = f", {self._options.variants[variant - 1]}" if variant else ""

        path = self._shard_path(index, variant)

        def blocks(expert: int) -> tuple[_Weights, list[Block], int]:
            weights = _Weights(self._model, self._model.tensors.expert(index, expert))
            return weights, made.blocks(weights), self._sources.checksum(path, expert)

        experts = range(first, self._model.architecture.moe.num_experts)
        self._report(f"layer {index}, experts{which}")
        workers = workers_for(shape)
        with contextlib.closing(in_order(blocks, experts, workers)) as parts:
            for expert, (weights, constants, source) in zip(experts, parts, strict=True):
                self._report(f"layer {index}, expert {expert}{which}")
                yield made.pieces(weights, constants), source
                self._done += 1

    def _head(self) -> m.DenseProgram:
        def fill(file: HashingFile) -> None:
            # Only one program has this shape: substituting would save nothing.
            weights = _Weights(self._model, self._model.tensors.head())
            file.write(lowering.lower(self._plan.head, weights))

        record = self._write(sources.HEAD_FILE, "head", fill)
        return m.DenseProgram(**_file(record), delegate=self._own(self._plan.head.delegate))

    def _copy(self, name: str) -> m.File:
        content = self._model.files[name]
        self._report(name)
        found = self._workspace.finished(name)
        return m.File(
            **_file(found or self._workspace.write(name, lambda file: file.write(content)))
        )

    def _write(self, path: str, what: str, fill: Callable[[HashingFile], None]) -> Record:
        """A file that is made of weights."""

        def fill_and_tell(file: HashingFile) -> Record:
            fill(file)
            return {"source": self._sources.checksum(path)}

        self._report(what)
        return self._workspace.finished(path) or self._workspace.write(path, fill_and_tell)

    def _of_shape(self, shape: ProgramShape) -> Programs:
        return self._programs.setdefault(shape, Programs(shape))

    def _report(self, what: str) -> None:
        self._progress("export", self._done, self._total, what)

    def _manifest(
        self,
        embedding: m.Embedding,
        layers: tuple[m.Layer, ...],
        head: m.DenseProgram,
        files: tuple[m.File, ...],
    ) -> m.Manifest:
        a, options = self._model.architecture, self._options
        attention, moe = a.attention, a.moe
        return m.Manifest(
            model=m.Model(
                name=a.name,
                family=a.family,
                vocab_size=a.vocab_size,
                hidden_size=a.hidden_size,
                num_layers=len(a.layers),
                context_length=a.context_length,
                bos_token_id=a.bos_token_id,
                eos_token_ids=a.eos_token_ids,
                num_parameters=self._model.tensors.num_parameters(),
                dense_intermediate_size=max(shape.mlp_width for shape in self._plan.layers),
            ),
            attention=m.Attention(
                num_heads=attention.num_heads,
                num_kv_heads=attention.num_kv_heads,
                head_dim=attention.head_dim,
                scale=attention.scale,
                rope=attention.rope,
                kv_dtype=options.kv_dtype,
            ),
            moe=m.Moe(
                num_experts=moe.num_experts,
                top_k=moe.top_k,
                intermediate_size=moe.intermediate_size,
                router=self._model.router(),
            ),
            quantization=m.Quantization(
                experts=options.experts,
                dense=options.dense,
                head=options.head,
                embedding=options.embedding,
                group_size=options.bundle_group_size,
            ),
            delegate=m.Delegate(options.expert_delegate, executorch_version()),
            max_batch=options.max_batch,
            embedding=embedding,
            layers=layers,
            head=head,
            files=files,
            memory=m.memory_facts(layers=layers, head=head, embedding=embedding, top_k=moe.top_k),
            provenance={"source": self._model.label, **_versions()},
        )


class _Weights(Mapping[str, torch.Tensor]):
    """A program's parameters, float32. Each is read when it is asked for, so that memory holds one
    at a time."""

    def __init__(self, model: OpenModel, refs: Mapping[str, TensorRef]) -> None:
        self._model, self._refs = model, refs

    def __getitem__(self, name: str) -> torch.Tensor:
        return self._model.store.read(self._refs[name])

    def __iter__(self) -> Iterator[str]:
        return iter(self._refs)

    def __len__(self) -> int:
        return len(self._refs)


def _check_name(name: object) -> None:
    """Refuses at once what the manifest could not hold in the end."""
    try:
        JsonField(name, "name", "").text(m.MAX_NAME_BYTES)
    except (BundleInvalidError, UnicodeEncodeError):
        raise UsageError(
            f"{name!r} is not 1 to {m.MAX_NAME_BYTES} UTF-8 bytes without control characters",
            setting="name",
            remedy="Give the model another name",
        ) from None


def _file(record: Record) -> Record:
    return {name: record[name] for name in ("path", "bytes", "sha256")}


def _versions() -> dict[str, str]:
    import moe_mobile

    return {
        "moe_mobile": moe_mobile.__version__,
        "torch": importlib.metadata.version("torch"),
        "torchao": importlib.metadata.version("torchao"),
    }


def _inputs(description: str, weights: str | None, options: Options) -> Inputs:
    versions = {**_versions(), "executorch": executorch_version()}
    return Inputs(description, weights, asdict(options), versions)


def _refuse_bundle(source: SourceLike) -> None:
    """Raises UsageError for a bundle, which has the configuration of a model but no weights."""
    if isinstance(source, RandomWeights) or source == DEMO:
        return
    folder = Path(source)
    weights = (SINGLE_FILE, INDEX_FILE)
    with reading(folder):
        is_bundle = (folder / m.MANIFEST_FILE).exists()
        if is_bundle and not any((folder / name).exists() for name in weights):
            raise UsageError(
                "it is a bundle already, not a checkpoint",
                file=folder,
                remedy="Name the checkpoint that it was exported from",
            )


def _require_executorch() -> None:
    """Programs are packed as one version of ExecuTorch packs them."""
    needed = executorch_version()
    try:
        found = importlib.metadata.version("executorch")
    except importlib.metadata.PackageNotFoundError:
        cause = "ExecuTorch is not installed"
    else:
        if found.split("+")[0] == needed:
            return
        cause = f"ExecuTorch {found} is installed, but programs are made for {needed}"
    raise UnsupportedError(cause, remedy=f"Install executorch=={needed}")
