# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""A checkpoint from the Hugging Face hub: what describes it comes first, its weights later.

Weights are many gigabytes. A model that cannot be exported is refused before they are fetched.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from moe_mobile.errors import IoError
from moe_mobile.model.safetensors import INDEX_FILE, SINGLE_FILE, read_index


def fetch_description(model_id: str, names: Sequence[str]) -> Path:
    """The folder of a model's newest snapshot, with those of the files that the model has, and the
    index of its weights. Raises IoError."""
    remedy = "Check the id and the connection; if you meant a folder, its path"
    return _fetch(model_id, None, [*names, INDEX_FILE], remedy)


def fetch_weights(model_id: str, folder: Path) -> None:
    """Adds the weights to what :func:`fetch_description` gave, from the same commit.

    Raises IoError, and CheckpointError for a broken index.
    """
    remedy = "Check the connection and the free space, then run it again: it continues"
    _fetch(model_id, folder.name, _weight_files(folder), remedy)


def list_files(model_id: str, commit: str | None = None) -> dict[str, int] | None:
    """The files of a commit, by default the newest, and their bytes; None if the hub does not tell,
    as when it cannot be reached."""
    from huggingface_hub import HfApi
    from huggingface_hub.hf_api import RepoFile

    try:
        entries = list(HfApi().list_repo_tree(model_id, revision=commit))
    except Exception:
        return None
    return {entry.path: entry.size for entry in entries if isinstance(entry, RepoFile)}


def missing_bytes(folder: Path, files: Mapping[str, int]) -> int:
    """How much :func:`fetch_weights` has to fetch, by the bytes of all files of the model.

    Raises CheckpointError for a broken index, and IoError.
    """
    missing = [name for name in _weight_files(folder) if not (folder / name).exists()]
    # What an interrupted download left, in the client's own folder.
    begun = [*folder.parent.parent.glob("blobs/*.incomplete")]
    return max(
        0,
        sum(files.get(name, 0) for name in missing) - sum(path.stat().st_size for path in begun),
    )


def _weight_files(folder: Path) -> list[str]:
    """Others that a repository may hold, such as consolidated.safetensors, are the weights again.

    Raises CheckpointError for a broken index, and IoError."""
    index = folder / INDEX_FILE
    shards = set(read_index(index).values()) if index.exists() else set()
    return sorted({SINGLE_FILE, *shards})


def _fetch(model_id: str, commit: str | None, names: list[str], remedy: str) -> Path:
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(model_id, revision=commit, allow_patterns=names))
    except Exception as error:
        raise IoError(
            f"downloading failed: {' '.join(str(error).split())}",
            file=model_id,
            remedy=remedy,
        ) from error
