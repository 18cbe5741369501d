# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""Opening what is to be exported: a folder, a Hugging Face id, the demo model, random weights."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NoReturn, Protocol

import torch

from moe_mobile.base import limits
from moe_mobile.base.disk import require_space
from moe_mobile.base.files import read_regular
from moe_mobile.base.json_text import json_text
from moe_mobile.base.router import RouterSpec
from moe_mobile.base.tokenizer import TOKENIZER, TextTokenizer, parse_tokenizer
from moe_mobile.errors import (
    CheckpointError,
    UnsupportedError,
    UsageError,
    did_you_mean,
    read_error,
)
from moe_mobile.model.added_tokens import require_same_tokens, with_special
from moe_mobile.model.architecture import Architecture
from moe_mobile.model.class_tokens import with_class_tokens
from moe_mobile.model.config import AGAIN, read_checkpoint_file, read_json_object
from moe_mobile.model.families.common import Family, Source
from moe_mobile.model.hub import fetch_description, fetch_weights, list_files, missing_bytes
from moe_mobile.model.names import ModelTensors, TensorRef
from moe_mobile.model.own_ids import require_own_ids
from moe_mobile.model.own_tokenizer import own_tokenizer
from moe_mobile.model.presets import RandomWeights, preset_config
from moe_mobile.model.quantized import ORIGINAL, QUANTIZER_FILES, refuse_foreign_tensors
from moe_mobile.model.random_weights import RECIPE, RandomStore
from moe_mobile.model.registry import describe
from moe_mobile.model.safetensors import (
    INDEX_FILE,
    SINGLE_FILE,
    SafetensorsStore,
    read_index,
    require_weights,
)
from moe_mobile.model.wrapped import refuse_wrapped

SourceLike = str | os.PathLike[str] | RandomWeights
"""What can be exported: a folder, a Hugging Face id ("org/name"), "demo", or random weights."""

# Copied into the bundle if the checkpoint has them: tokenizer.json with its special tokens marked,
# tokenizer_config.json with all their names. transformers' tokenizers do not read
# chat_template.json, which belongs to processors.
HUGGING_FACE_FILES = (
    "added_tokens.json",
    "additional_chat_templates/tool_use.jinja",
    "chat_template.jinja",
    "config.json",
    "generation_config.json",
    "merges.txt",
    "special_tokens_map.json",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "vocab.json",
)
_CONFIGS = ("config.json", "generation_config.json")
ADAPTER = "adapter_config.json"
DEMO = "demo"
_PREFIX = "model."
_HUB_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*/[A-Za-z0-9][A-Za-z0-9._-]*")


class TensorStore(Protocol):
    """Where weights come from."""

    def __contains__(self, name: object) -> bool: ...
    def fingerprint(self) -> str: ...
    def written(self) -> str: ...
    def checksum(self, refs: Iterable[TensorRef]) -> int: ...
    def check(self, ref: TensorRef) -> None: ...
    def names(self) -> Collection[str]: ...
    def read(self, ref: TensorRef) -> torch.Tensor: ...


@dataclass(frozen=True)
class OpenModel:
    """A model ready to be read.

    Attributes:
        label: what the bundle's provenance calls the source; no path of this machine.
        tensors: which tensor is which program's parameter.
        store: reads them.
        files: Hugging Face files to copy: bundle name to content.
    """

    label: str
    architecture: Architecture
    tensors: ModelTensors
    store: TensorStore
    files: dict[str, bytes]

    def fingerprint(self) -> str:
        """Changes when anything that the export reads does; of the weights as their store says."""
        parts = (self.label, self.architecture.name, self.described(), self.store.fingerprint())
        return hashlib.sha256(json_text(parts).encode()).hexdigest()

    def described(self) -> str:
        """As :meth:`Description.fingerprint`."""
        return _fingerprint(self.architecture, self.files)

    def router(self) -> RouterSpec:
        """How experts are selected, with the bias that the checkpoint holds. Errors as reading."""
        layers = range(len(self.architecture.layers))
        refs = [ref for ref in map(self.tensors.router_bias, layers) if ref is not None]
        bias = tuple(tuple(self.store.read(ref).float().tolist()) for ref in refs)
        return replace(self.architecture.moe.router, bias=bias)

    def check(self) -> None:
        """Raises a CheckpointError unless every tensor is there with the right shape, and an
        UnsupportedError unless it is of a type that can be exported."""
        for ref in self.tensors.all():
            self.store.check(ref)

    def unused(self) -> list[str]:
        """Tensors of the checkpoint that the model does not have: transformers ignores them too."""
        # Buffers that transformers 4 saved; they follow from the configuration.
        ignored = ".rotary_emb.inv_freq"
        used = {ref.name for ref in self.tensors.all()}
        return sorted(n for n in self.store.names() if n not in used and not n.endswith(ignored))


def open_model(
    source: SourceLike,
    *,
    name: str | None = None,
    judge: Callable[[Description], None] = lambda _: None,
) -> OpenModel:
    """Opens a source and checks that all its tensors exist with the right shapes and types.

    Args:
        source: see :data:`SourceLike`. An existing folder wins over a Hugging Face id.
        name: the model's name; by default the folder's, the id's or the preset's.
        judge: called before weights are fetched or looked at, may raise what speaks against them.

    Raises:
        DiskFullError: the disk has no room for weights that must be fetched.
        UsageError: there is no such source.
        UnsupportedError: a model that cannot be exported.
        CheckpointError, IoError: a broken one.
    """
    if isinstance(source, RandomWeights):
        config = preset_config(source)
        text = (json_text(config, indent=2, sort_keys=True) + "\n").encode()
        label = f"random weights {RECIPE} of {source.preset}, seed {source.seed}"
        origin = Source(config, f"preset {source.preset}", name or f"{source.preset}-random")
        described = Description(*describe(origin), {"config.json": text})
        judge(described)
        return _open(described, label, RandomStore(source.seed))
    text_source = os.fspath(source)
    if Path(text_source).exists() and not Path(text_source).is_dir():
        _refuse_file(Path(text_source))
    hub_id: str | None = None
    if text_source == DEMO:
        from moe_mobile.demo import checkpoint_dir

        folder, label, default = checkpoint_dir(), DEMO, DEMO
    elif Path(text_source).is_dir():
        folder = Path(text_source)
        default = label = folder.resolve().name
    elif isinstance(source, str) and _is_hub_id(source):
        hub_id = label = source
        names = [*HUGGING_FACE_FILES, ADAPTER, *QUANTIZER_FILES]
        _require_small(list_files(hub_id) or {}, [*names, INDEX_FILE], hub_id)
        folder = fetch_description(hub_id, names)
        default = hub_id.rsplit("/", 1)[1]
    else:
        _refuse_name(text_source)
    if hub_id is None:
        described = _read_description(folder, name or default, _names_in(folder))
        judge(described)
    else:
        files = list_files(hub_id, folder.name)
        described = _read_description(folder, name or default, files or ())
        _judge_weights(described, folder, hub_id, files)
        download = Download(folder, missing_bytes(folder, files or {}))
        judge(replace(described, download=download))
        require_space(folder, download.bytes, "the weights to be downloaded need")
        fetch_weights(hub_id, folder)
    return _open(described, label, SafetensorsStore(folder), folder)


def _names_in(folder: Path) -> list[str]:
    try:
        return os.listdir(folder)
    except OSError as error:
        raise read_error(error, folder) from error


def _most_bytes(file: str) -> int:
    """Of one of a checkpoint's small files."""
    if file in _CONFIGS:
        return limits.CONFIG_BYTES
    return limits.INDEX_BYTES if file == INDEX_FILE else limits.CHECKPOINT_FILE_BYTES


def _require_small(listed: Mapping[str, int], names: Iterable[str], hub_id: str) -> None:
    """Raises a CheckpointError, before they are fetched, if what a hub has by these names is larger
    than any such file."""
    for name in names:
        if listed.get(name, 0) > (most := _most_bytes(name)):
            raise CheckpointError(
                f"larger than {most >> 20} MiB, which no such file is",
                file=f"{hub_id}/{name}",
                remedy="Choose another model",
            )


def _judge_weights(
    described: Description, folder: Path, hub_id: str, listed: Collection[str] | None
) -> None:
    """Judges the weights by what is known before they are fetched: the hub's list of files, and
    the index of tensors. Errors as :func:`open_model`."""
    if listed is not None:
        require_weights(listed, hub_id)
    index = folder / INDEX_FILE
    # A single file counts if there are both.
    if index.exists() and not (listed and SINGLE_FILE in listed):
        names = read_index(index)
        tensors = ModelTensors(described.architecture, described.family.names, names)
        _refuse_names(names, tensors, folder)


def _is_hub_id(source: str) -> bool:
    """Whether it is no mistyped path: with a folder of the organisation's name here, it is one."""
    path = Path(source)
    return bool(_HUB_ID.fullmatch(source)) and not path.exists() and not path.parent.exists()


def _refuse_name(source: str) -> NoReturn:
    """Raises the error for a name that is neither a folder's nor a model's."""
    parent, name = os.path.split(source)
    folders = _folders_in(parent or os.curdir)
    if not parent and DEMO not in folders:
        folders.append(DEMO)
    remedy = "Give a folder, a Hugging Face id (org/name), or 'demo'"
    if _HUB_ID.fullmatch(source):
        remedy += f". For the Hugging Face id, start it where no {parent!r} is"
    raise UsageError(
        "no such checkpoint folder",
        file=source,
        remedy=did_you_mean(name, folders, remedy, source.removesuffix(name)),
    )


def _folders_in(parent: str) -> list[str]:
    try:
        return [entry.name for entry in os.scandir(parent) if entry.is_dir()]
    except (OSError, ValueError):
        return []


def _refuse_file(path: Path) -> NoReturn:
    """Raises the error for a file in place of a checkpoint's folder."""
    if not path.is_file():
        raise UsageError(
            "it is a pipe, a socket or a device, not the folder of a checkpoint",
            file=path,
            remedy="Give a folder",
        )
    if path.name.endswith(".gguf") or read_regular(path, 4)[:4] == b"GGUF":
        _refuse_gguf(path)
    raise UsageError(
        "it is a file, not the folder of a checkpoint", file=path, remedy="Give its folder"
    )


def _refuse_gguf(file: Path | str) -> NoReturn:
    raise UnsupportedError(
        "a GGUF file is quantized for llama.cpp, and cannot be exported",
        file=file,
        remedy=ORIGINAL,
    )


@dataclass(frozen=True)
class Download:
    """What is to be fetched from a hub: how many bytes, 0 if the hub does not tell, and a folder
    on the disk that they come onto."""

    folder: Path
    bytes: int


@dataclass(frozen=True)
class Description:
    """What a checkpoint's files say of the model, all but its weights.

    ``files``: those that go into the bundle. ``note``: what to tell the user of them.
    """

    family: Family
    architecture: Architecture
    files: dict[str, bytes]
    note: str | None = None
    download: Download | None = None

    def fingerprint(self) -> str:
        """Changes when anything does that a bundle holds of it, but for the model's name."""
        return _fingerprint(self.architecture, self.files)


def _fingerprint(architecture: Architecture, files: Mapping[str, bytes]) -> str:
    digest = hashlib.sha256(repr(replace(architecture, name="")).encode())
    for name, content in sorted(files.items()):
        digest.update(f"{name}:{hashlib.sha256(content).hexdigest()}".encode())
    return digest.hexdigest()


def _read_description(folder: Path, name: str, listed: Collection[str]) -> Description:
    """Reads and judges everything but the weights. Errors as :func:`open_model`.

    ``listed``: names of all files, where those of a hub may not be in the folder.
    """
    config_file = folder / "config.json"
    if (folder / ADAPTER).exists():
        # Alone or next to a model: transformers would load the model with the adapter in it.
        raise UnsupportedError(
            "it holds an adapter (LoRA), which changes the weights of a model when it is loaded",
            file=folder / ADAPTER,
            remedy="Merge it into the model (merge_and_unload in peft), save that, and export it; "
            f"or delete {ADAPTER} to export the model without it",
        )
    if not config_file.exists():
        gguf = sorted(name for name in listed if name.endswith(".gguf"))
        if gguf:
            _refuse_gguf(folder / gguf[0])
        raise CheckpointError(
            "config.json is missing",
            file=folder,
            remedy="Give the folder, or the Hugging Face id, of a model as transformers saves it",
        )
    config = read_json_object(config_file)
    files: dict[str, bytes] = {}
    for file in HUGGING_FACE_FILES:
        path = folder / file
        if path.exists():
            files[file] = read_checkpoint_file(path, _most_bytes(file))
    generation, stop = folder / "generation_config.json", None
    if generation.exists():
        # transformers stops at the generation configuration's tokens if it names any.
        tokens = read_json_object(generation).get("eos_token_id")
        stop = None if tokens is None else (tokens, str(generation))
    family, architecture = describe(Source(config, str(config_file), name, stop))
    note = None
    if TOKENIZER in files:
        tokenizer = _read_tokenizer(files[TOKENIZER], folder / TOKENIZER, architecture.vocab_size)
        special = require_same_tokens(folder, tokenizer)
        theirs = own_tokenizer(files)
        note = require_own_ids(folder, files, tokenizer, theirs)
        files = with_class_tokens(files, theirs)
        files[TOKENIZER] = with_special(files[TOKENIZER], special)
    return Description(family, architecture, files, note)


def _read_tokenizer(data: bytes, file: Path, vocab_size: int) -> TextTokenizer:
    """The tokenizer. Raises a CheckpointError if it cannot be used, or has tokens that the model
    does not know."""
    tokenizer = parse_tokenizer(data, file, CheckpointError, AGAIN)
    tokenizer.try_out()
    tokenizer.require_rows(
        vocab_size,
        "Take the token out of the file, or enlarge the model's embedding "
        "(resize_token_embeddings in transformers)",
    )
    return tokenizer


def _open(
    described: Description, label: str, store: TensorStore, folder: Path | None = None
) -> OpenModel:
    architecture = described.architecture
    tensors = ModelTensors(architecture, described.family.names, store)
    model = OpenModel(label, architecture, tensors, store, described.files)
    if folder is None:
        model.check()
        return model
    _refuse_names(store.names(), tensors, folder)
    _refuse_other_names(model, folder)
    model.check()
    return model


def _refuse_names(stored: Collection[str], tensors: ModelTensors, folder: Path) -> None:
    """Raises an UnsupportedError if names of tensors tell that these are not the model's own."""
    used = {ref.name for ref in tensors.all()}
    refuse_foreign_tensors(stored, used, folder)
    refuse_wrapped(stored, used, folder)


def _refuse_other_names(model: OpenModel, folder: Path) -> None:
    """Raises a CheckpointError if transformers would take another tensor than we do, or fail."""
    tensors = model.tensors
    parameters, experts = tensors.parameters(), tensors.expert_names()
    for name in model.unused():
        renamed = tensors.renamed(name)
        # transformers takes any character for the point.
        candidates = (renamed, re.sub("^model.", "", renamed), _PREFIX + renamed)
        meant = next((parameters[one] for one in candidates if one in parameters), None)
        remedy = "Take out the tensors that are not the model's, or correct config.json"
        if meant is not None and meant in model.store:
            cause = f"is another name for {meant}, which is there too"
        elif meant is not None:
            cause = f"is another name for {meant}"
            remedy = (
                "Load it with transformers and save it again (AutoModelForCausalLM, "
                "save_pretrained), which gives tensors their names; or take it out"
            )
        elif any(map(experts.fullmatch, candidates)):
            cause = "is of an expert that config.json does not have, or that is stored twice"
        else:
            continue
        raise CheckpointError(
            f"tensor {name} {cause}: transformers may use it, or fail",
            file=folder,
            remedy=remedy,
        )
