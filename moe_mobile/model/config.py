# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""Strict access to a Hugging Face ``config.json`` through transformers' own configuration class.

transformers supplies the defaults of absent members, so that a model means here what it means
there. Members that neither the family's adapter nor the list of neutral ones knows are refused:
they might change the computation.
"""

from __future__ import annotations

import importlib
import json
import logging
from collections.abc import Container, Iterable, Mapping
from pathlib import Path
from typing import Any, NoReturn

from moe_mobile.base import limits
from moe_mobile.base.files import read_regular
from moe_mobile.base.json_field import too_many_values
from moe_mobile.errors import CheckpointError, UnsupportedError

JsonObject = dict[str, Any]

AGAIN = "Download or copy the checkpoint again"
_POINTER = b"version https://git-lfs.github.com/spec/v1"
# Far more than any model has; transformers' classes make lists of this length.
MOST_LAYERS = 4096
MOST_TOKENS = 2**24
"""Of a vocabulary. Other sizes of a model end there too."""

# What transformers' class gets in addition to the adapters' members: it checks the last.
_ALSO_READ = frozenset(["bos_token_id", "eos_token_id", "pad_token_id", "layer_types"])

# Members that do not change what the model computes at inference, with any value.
_NEUTRAL = frozenset(
    [
        "_commit_hash",
        "_experts_implementation",
        "_flash_attn_2_enabled",
        "_name_or_path",
        "architectures",
        "attention_dropout",
        "attn_implementation",
        # transformers takes its own class for a family that it knows.
        "auto_map",
        "bos_token_id",
        "chunk_size_feed_forward",
        "cls_token_id",
        "dtype",
        "eos_token_id",
        "gradient_checkpointing",
        "id2label",
        "initializer_range",
        "is_decoder",
        "is_encoder_decoder",
        "keys_to_ignore_at_inference",
        "label2id",
        "library_name",
        "mask_token_id",
        "max_sequence_length",
        "model_max_length",
        "model_type",
        "num_labels",
        "output_attentions",
        "output_hidden_states",
        "output_router_logits",
        "pad_token_id",
        "problem_type",
        "return_dict",
        "router_aux_loss_coef",
        "torch_dtype",
        "transformers.js_config",
        "unk_token_id",
        "use_cache",
    ]
)
# The same, of what transformers 4 wrote about generation and training into every configuration.
_LEGACY = frozenset(
    [
        "begin_suppress_tokens",
        "decoder_start_token_id",
        "diversity_penalty",
        "do_sample",
        "early_stopping",
        "encoder_no_repeat_ngram_size",
        "exponential_decay_length_penalty",
        "finetuning_task",
        "forced_bos_token_id",
        "forced_eos_token_id",
        "length_penalty",
        "max_length",
        "max_new_tokens",
        "min_length",
        "min_p",
        "no_repeat_ngram_size",
        "num_beam_groups",
        "num_beams",
        "num_return_sequences",
        "output_past",
        "output_scores",
        "prefix",
        "remove_invalid_values",
        "repetition_penalty",
        "return_dict_in_generate",
        "sep_token_id",
        "suppress_tokens",
        "task_specific_params",
        "temperature",
        "tf_legacy_loss",
        "tokenizer_class",
        "top_k",
        "top_p",
        "torchscript",
        "typical_p",
        "use_bfloat16",
    ]
)
# Of training, as other families call it.
_TRAINING = frozenset(
    [
        "attention_probs_dropout_prob",
        "attn_pdrop",
        "aux_loss_alpha",
        "classifier_dropout",
        "embd_pdrop",
        "embedding_dropout",
        "hidden_dropout",
        "hidden_dropout_prob",
        "resid_dropout",
        "resid_pdrop",
        "router_z_loss_coef",
        "seq_aux",
        "z_loss_coef",
    ]
)
# The beginnings and ends of what tools leave behind.
_MARKS = ("unsloth_", "_attn_implementation", "mergekit")
_MARKS_AT_END = ("_version",)
# Members of other families, with the values that say what all of ours do in any case.
_ALWAYS: Mapping[str, Container[object]] = {
    "hidden_activation": ("silu", "swish"),
    "moe_layer_freq": (1,),
    "partial_rotary_factor": (1,),
    "pretraining_tp": (1,),
}
# Members that transformers acts upon when they are off.
_ACTS_WHEN_OFF = frozenset(["is_causal"])
# Members that say that weights are quantized. MLX writes the first, and a copy as the second.
_QUANTIZED = ("quantization", "quantization_config", "compression_config")
_BY_MLX = frozenset(["group_size", "bits", "mode"])


def _is_inert(name: str, value: object, always: Mapping[str, Container[object]]) -> bool:
    """Whether a member that the adapter does not read changes nothing: with one exception, no class
    of transformers acts on an option that is off, and ``always`` has what the family does in any
    case."""
    if name in _ACTS_WHEN_OFF:
        return value is True
    if name in _NEUTRAL | _LEGACY | _TRAINING or not value:
        return True
    if name.startswith(_MARKS) or name.endswith(_MARKS_AT_END):
        return True
    if name == "layer_types" and isinstance(value, list):
        return all(kind == "full_attention" for kind in value)
    return value in {**_ALWAYS, **always}.get(name, ())


def read_checkpoint_file(path: Path, most: int | None = None) -> bytes:
    """The bytes of one of a checkpoint's small files. Raises IoError, and CheckpointError if it is
    larger than ``most``, by default larger than any such file."""
    most = limits.CHECKPOINT_FILE_BYTES if most is None else most
    data = read_regular(path, most)
    if len(data) > most:
        raise CheckpointError(
            f"larger than {most >> 20} MiB, which no such file is", file=path, remedy=AGAIN
        )
    refuse_pointer(data, path)
    return data


def refuse_pointer(data: bytes | bytearray, path: Path) -> None:
    """Raises a CheckpointError if a file that begins so stands for another one in Git LFS."""
    if data.startswith(_POINTER):
        raise CheckpointError(
            "it is a Git LFS pointer, not the file itself",
            file=path,
            remedy="Run `git lfs pull` in the checkpoint's folder",
        )


def read_json_object(path: Path, most: int | None = None) -> JsonObject:
    """Reads a JSON file that holds one object; errors name the file.

    ``most``: its bytes; by default what a configuration may have.
    """
    data = read_checkpoint_file(path, limits.CONFIG_BYTES if most is None else most)
    if too_many_values(data):
        raise CheckpointError("holds too many values", file=path, remedy=AGAIN)
    try:
        # As transformers reads it: without a byte order mark, in no other encoding.
        value = json.loads(data.decode())
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"not valid JSON: {error}", file=path, remedy=AGAIN) from error
    if not isinstance(value, dict):
        raise CheckpointError("must hold a JSON object", file=path, remedy=AGAIN)
    return value


def _refuse_quantized(settings: object, where: str, file: str) -> NoReturn:
    """Raises the error for weights that are quantized, with the method if ``settings`` tell it."""
    members = settings if isinstance(settings, dict) else {}
    # In ModelOpt's, the second says what it did.
    named = [members.get(name) for name in ("quant_method", "quant_algo")]
    method = " ".join(name for name in named if isinstance(name, str))
    # Other members of MLX's are layers with settings of their own.
    common = {name for name, value in members.items() if not isinstance(value, dict)}
    if where == "quantization" or (common <= _BY_MLX and "group_size" in common):
        method = "MLX"
    kind = f" with {method}" if method else ""
    raise UnsupportedError(
        f"the checkpoint is already quantized{kind} ({where})",
        file=file,
        remedy="Export from the original bf16, fp16 or fp32 checkpoint",
    )


class ConfigView:
    """A configuration whose members are read with type checks.

    Args:
        raw: the content of ``config.json``.
        file: name for error messages.
        module, cls: where transformers defines the configuration class.
        known: members that the adapter reads or checks.
        always: further members, with the values that say what the family does in any case.
    """

    def __init__(
        self,
        raw: JsonObject,
        file: str,
        module: str,
        cls: str,
        known: Iterable[str],
        always: Mapping[str, Container[object]],
    ) -> None:
        self.file = file
        for name in _QUANTIZED:
            if raw.get(name):
                _refuse_quantized(raw[name], name, file)
        unknown = sorted(
            name for name in set(raw) - set(known) if not _is_inert(name, raw[name], always)
        )
        if unknown:
            raise UnsupportedError(
                f"unknown option {unknown[0]!r} = {raw[unknown[0]]!r}",
                file=file,
                remedy="If it does not change what the model computes, remove it",
            )
        layers = raw.get("num_hidden_layers")
        if isinstance(layers, int) and layers > MOST_LAYERS:
            raise CheckpointError(
                f"num_hidden_layers must be at most {MOST_LAYERS}, not {layers}", file=file
            )
        config_class = getattr(importlib.import_module(module), cls)
        # Its remarks on options repeat, less precisely, what our own checks say.
        logger = logging.getLogger("transformers")
        level = logger.level
        logger.setLevel(logging.ERROR)
        try:
            # Neutral members stay outside: some allocate by their value, num_labels for one.
            read = _ALSO_READ.union(known)
            self.config = config_class(**{k: v for k, v in raw.items() if k in read})
        except Exception as error:
            cause = " ".join(str(error).split())
            raise CheckpointError(f"transformers refuses it: {cause}", file=file) from error
        finally:
            logger.setLevel(level)

    def get(self, name: str) -> Any:
        """The member's value (or transformers' default), unchecked."""
        return getattr(self.config, name, None)

    def integer(self, name: str, minimum: int = 1, maximum: int = MOST_TOKENS) -> int:
        value = self.get(name)
        if isinstance(value, bool) or not isinstance(value, int) or not minimum <= value <= maximum:
            raise CheckpointError(
                f"{name} must be an integer in {minimum}..{maximum}, not {value!r}", file=self.file
            )
        return value

    def number(self, name: str) -> float:
        """A finite positive number."""
        value = self.get(name)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise CheckpointError(f"{name} must be a number, not {value!r}", file=self.file)
        if not 0 < value < float("inf"):
            raise CheckpointError(f"{name} must be positive, not {value!r}", file=self.file)
        return float(value)

    def boolean(self, name: str) -> bool:
        value = self.get(name)
        if not isinstance(value, bool):
            raise CheckpointError(f"{name} must be true or false, not {value!r}", file=self.file)
        return value

    def require(self, name: str, *allowed: object) -> None:
        """Refuses the model unless the member has one of these values."""
        value = self.get(name)
        if value not in allowed:
            raise UnsupportedError(
                f"{name} = {value!r} is not supported, only "
                + " or ".join(repr(a) for a in allowed),
                file=self.file,
            )
