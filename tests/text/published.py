# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""Tokenizers and chat templates of the kinds that the supported models are published with.

The vocabularies are small. Everything that decides how a text is split is as it is published: the
normalizer, what splits words, the decoder, special tokens, and the class that transformers uses.
The templates use what the published ones use, and write the same marks.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from transformers import AutoTokenizer

from moe_mobile.bundle import manifest as m
from moe_mobile.bundle.writer import to_bytes
from tests.bundle.samples import sample

TRAINED_ON = [
    "Why is the sky blue? Because air scatters blue light more than red light.",
    "You are a helpful assistant. Answer the user's question in one or two short sentences.",
    "naïve café, 12345 + 67890 = 80235; über die Straße. 天空为什么是蓝色的",
    "def f(x):\n    return x ** 2  # a function\n\n\nprint(f(3))\n",
]
QWEN_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)

LFM2_WORDS = QWEN_WORDS.replace(r"|\p{N}|", r"|\p{N}{1,3}|")

# ChatML, with a system message if none is given.
QWEN2 = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n' }}{% endif %}"
    "{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
# Tools, calls of tools and their answers, thoughts of earlier answers left out, and thinking
# switched off by an empty thought.
QWEN3 = """\
{%- if tools %}
    {{- '<|im_start|>system\\n' }}
    {%- if messages[0].role == 'system' %}{{- messages[0].content + '\\n\\n' }}{%- endif %}
    {{- "# Tools\\n\\n<tools>" }}
    {%- for tool in tools %}{{- "\\n" }}{{- tool | tojson }}{%- endfor %}
    {{- "\\n</tools><|im_end|>\\n" }}
{%- elif messages[0].role == 'system' %}
    {{- '<|im_start|>system\\n' + messages[0].content + '<|im_end|>\\n' }}
{%- endif %}
{%- set ns = namespace(searching=true, last_query=messages|length - 1) %}
{%- for message in messages[::-1] %}
    {%- set index = (messages|length - 1) - loop.index0 %}
    {%- if ns.searching and message.role == "user" and message.content is string
           and not(message.content.startswith('<tool_response>')) %}
        {%- set ns.searching = false %}
        {%- set ns.last_query = index %}
    {%- endif %}
{%- endfor %}
{%- for message in messages %}
    {%- set content = message.content if message.content is string else '' %}
    {%- if message.role == "user" or (message.role == "system" and not loop.first) %}
        {{- '<|im_start|>' + message.role + '\\n' + content + '<|im_end|>' + '\\n' }}
    {%- elif message.role == "assistant" %}
        {%- set thoughts = '' %}
        {%- if message.reasoning_content is string %}
            {%- set thoughts = message.reasoning_content %}
        {%- elif '</think>' in content %}
            {%- set thoughts = content.split('</think>')[0].rstrip('\\n').split('<think>')[-1] %}
            {%- set content = content.split('</think>')[-1].lstrip('\\n') %}
        {%- endif %}
        {{- '<|im_start|>' + message.role + '\\n' }}
        {%- if loop.index0 > ns.last_query and (loop.last or thoughts) %}
            {{- '<think>\\n' + thoughts.strip('\\n') + '\\n</think>\\n\\n' }}
        {%- endif %}
        {{- content.lstrip('\\n') if thoughts else content }}
        {%- for call in message.tool_calls or [] %}
            {%- if (loop.first and content) or (not loop.first) %}{{- '\\n' }}{%- endif %}
            {%- if call.function %}{%- set call = call.function %}{%- endif %}
            {{- '<tool_call>\\n{"name": "' + call.name + '", "arguments": ' }}
            {{- call.arguments if call.arguments is string else call.arguments | tojson }}
            {{- '}\\n</tool_call>' }}
        {%- endfor %}
        {{- '<|im_end|>\\n' }}
    {%- elif message.role == "tool" %}
        {%- if loop.first or (messages[loop.index0 - 1].role != "tool") %}
            {{- '<|im_start|>user' }}
        {%- endif %}
        {{- '\\n<tool_response>\\n' + content + '\\n</tool_response>' }}
        {%- if loop.last or (messages[loop.index0 + 1].role != "tool") %}
            {{- '<|im_end|>\\n' }}
        {%- endif %}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}
        {{- '<think>\\n\\n</think>\\n\\n' }}
    {%- endif %}
{%- endif %}"""
OLMOE = (
    "{{ bos_token }}{% for message in messages %}\n"
    "{% if message['role'] == 'system' %}\n{{ '<|system|>\n' + message['content'] }}\n"
    "{% elif message['role'] == 'user' %}\n{{ '<|user|>\n' + message['content'] }}\n"
    "{% elif message['role'] == 'assistant' %}\n"
    "{{ '<|assistant|>\n'  + message['content'] + eos_token }}\n{% endif %}\n"
    "{% if loop.last and add_generation_prompt %}\n{{ '<|assistant|>' }}\n{% endif %}\n{% endfor %}"
)
MIXTRAL = (
    "{{ bos_token }}{% for message in messages %}"
    "{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}"
    "{% endif %}{% if message['role'] == 'user' %}{{ '[INST] ' + message['content'] + ' [/INST]' }}"
    "{% elif message['role'] == 'assistant' %}{{ message['content'] + eos_token}}"
    "{% else %}{{ raise_exception('Only user and assistant roles are supported!') }}{% endif %}"
    "{% endfor %}"
)
# With a system message in the last turn of the user.
MIXTRAL_V3 = """\
{%- if messages[0]["role"] == "system" %}
    {%- set system_message = messages[0]["content"] %}
    {%- set loop_messages = messages[1:] %}
{%- else %}
    {%- set loop_messages = messages %}
{%- endif %}
{{- bos_token }}
{%- for message in loop_messages %}
    {%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}
        {{- raise_exception('After the optional system message, conversation roles must alternate \
user/assistant/user/assistant/...') }}
    {%- endif %}
    {%- if message["role"] == "user" %}
        {%- if loop.last and system_message is defined %}
            {{- "[INST] " + system_message + "\\n\\n" + message["content"] + "[/INST]" }}
        {%- else %}
            {{- "[INST] " + message["content"] + "[/INST]" }}
        {%- endif %}
    {%- elif message["role"] == "assistant" %}
        {{- " " + message["content"] | trim + eos_token }}
    {%- else %}
        {{- raise_exception("Only user and assistant roles are supported!") }}
    {%- endif %}
{%- endfor %}
"""
MIXTRAL_TOOLS = """\
{{- bos_token }}{{- "[AVAILABLE_TOOLS] [" }}
{%- for tool in tools %}
    {{- '{"type": "function", "function": {' }}
    {%- for key, value in tool.function.items() if key != "return" %}
        {%- if value is string %}{{- '"' + key + '": "' + value + '"' }}
        {%- else %}{{- '"' + key + '": ' + value | tojson }}{%- endif %}
        {%- if not loop.last %}{{- ", " }}{%- endif %}
    {%- endfor %}
    {{- "}}" }}{%- if not loop.last %}{{- ", " }}{%- endif %}
{%- endfor %}
{{- "] [/AVAILABLE_TOOLS]" }}
{%- for message in messages %}
    {%- if message["role"] == "user" %}{{- "[INST] " + message["content"] + "[/INST]" }}
    {%- elif message["tool_calls"] is defined and message["tool_calls"] is not none %}
        {{- "[TOOL_CALLS] " + message.tool_calls | map(attribute="function") | list | tojson }}
        {{- eos_token }}
    {%- elif message["role"] == "tool" %}
        {{- '[TOOL_RESULTS] {"content": ' + message.content|string + "} [/TOOL_RESULTS]" }}
    {%- else %}{{- " " + message["content"] + eos_token }}{%- endif %}
{%- endfor %}
"""
# ChatML with tools in the system message; values that are not texts are written as JSON.
LFM2 = """\
{{- bos_token -}}
{%- set ns = namespace(system="") -%}
{%- set rest = messages -%}
{%- if messages[0]["role"] == "system" -%}
    {%- set ns.system = messages[0]["content"] -%}
    {%- set rest = messages[1:] -%}
{%- endif -%}
{%- if tools -%}
    {%- set ns.system = ns.system + ("\\n" if ns.system else "") + "List of tools: " -%}
    {%- set ns.system = ns.system + "<|tool_list_start|>[" -%}
    {%- for tool in tools -%}
        {%- set ns.system = ns.system + (tool if tool is string else tool | tojson) -%}
        {%- if not loop.last -%}{%- set ns.system = ns.system + ", " -%}{%- endif -%}
    {%- endfor -%}
    {%- set ns.system = ns.system + "]<|tool_list_end|>" -%}
{%- endif -%}
{%- if ns.system -%}
    {{- "<|im_start|>system\\n" + ns.system + "<|im_end|>\\n" -}}
{%- endif -%}
{%- for message in rest -%}
    {{- "<|im_start|>" + message["role"] + "\\n" -}}
    {%- set content = message["content"] -%}
    {%- if content is not string -%}{%- set content = content | tojson -%}{%- endif -%}
    {%- if message["role"] == "tool" -%}
        {%- set content = "<|tool_response_start|>" + content + "<|tool_response_end|>" -%}
    {%- endif -%}
    {{- content + "<|im_end|>\\n" -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- "<|im_start|>assistant\\n" -}}{%- endif -%}
"""
TWO_TEMPLATES = [
    {"name": "default", "template": MIXTRAL_V3},
    {"name": "tool_use", "template": MIXTRAL_TOOLS},
]
DATED = (
    "{{ bos_token }}Today is {{ strftime_now('%Y') }}.\n{{ messages[-1].content }}{{ eos_token }}"
)


@dataclass(frozen=True)
class Published:
    """The files of a model that have to do with text."""

    tokenizer: Tokenizer
    config: dict[str, Any]
    template_file: str | None = None
    tools_file: str | None = None

    def files(self) -> dict[str, bytes]:
        made = {
            "tokenizer.json": self.tokenizer.to_str().encode(),
            "tokenizer_config.json": json.dumps(self.config).encode(),
        }
        if self.template_file is not None:
            made["chat_template.jinja"] = self.template_file.encode()
        if self.tools_file is not None:
            made["additional_chat_templates/tool_use.jinja"] = self.tools_file.encode()
        return made


def _added(tokenizer: Tokenizer) -> dict[str, Any]:
    members = ("content", "lstrip", "normalized", "rstrip", "single_word", "special")
    return {
        str(number): {member: getattr(token, member) for member in members}
        for number, token in tokenizer.get_added_tokens_decoder().items()
    }


def _qwen(template: str, thinking: bool, as_file: bool = False) -> Published:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(QWEN_WORDS), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.post_processor = processors.ByteLevel(add_prefix_space=False, trim_offsets=False)
    tokenizer.decoder = decoders.ByteLevel()
    _train(tokenizer, pre_tokenizers.ByteLevel.alphabet())
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in special])
    if thinking:
        marks = ("<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>")
        plain = [*marks, "<think>", "</think>"]
        tokenizer.add_tokens([AddedToken(token, normalized=False) for token in plain])
    config: dict[str, Any] = {
        "add_bos_token": False,
        "add_prefix_space": False,
        "added_tokens_decoder": _added(tokenizer),
        "additional_special_tokens": special[1:],
        "bos_token": None,
        "clean_up_tokenization_spaces": False,
        "eos_token": "<|im_end|>",
        "errors": "replace",
        "model_max_length": 131072,
        "pad_token": "<|endoftext|>",
        "split_special_tokens": False,
        "tokenizer_class": "Qwen2Tokenizer",
        "unk_token": None,
    }
    if as_file:
        return Published(tokenizer, config, template)
    return Published(tokenizer, config | {"chat_template": template})


def _olmoe(template: str) -> Published:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.post_processor = processors.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    _train(tokenizer, pre_tokenizers.ByteLevel.alphabet(), ["|||IP_ADDRESS|||", "<|padding|>"])
    tokenizer.add_tokens([AddedToken("  " * n, normalized=True) for n in (12, 6, 3, 2, 1)])
    tokenizer.add_special_tokens([AddedToken("<|endoftext|>", special=True)])
    config = {
        "add_bos_token": False,
        "add_eos_token": False,
        "add_prefix_space": False,
        "added_tokens_decoder": _added(tokenizer),
        "bos_token": "<|endoftext|>",
        "chat_template": template,
        "clean_up_tokenization_spaces": True,
        "eos_token": "<|endoftext|>",
        "pad_token": "<|padding|>",
        "tokenizer_class": "GPTNeoXTokenizer",
        "unk_token": "<|endoftext|>",
    }
    return Published(tokenizer, config)


def _mixtral(template: Any, marks: bool = False) -> Published:
    """SentencePiece's kind: words begin with ▁, unknown characters become bytes."""
    tokenizer = Tokenizer(models.BPE(byte_fallback=True, fuse_unk=True, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    special = ["<unk>", "<s>", "</s>"]
    if marks:  # v0.3 and 8x22B-Instruct: tokens for what v0.1 spells
        tools = ("AVAILABLE_TOOLS", "TOOL_CALLS", "TOOL_RESULTS")
        special += ["[INST]", "[/INST]", *(f"[{t}]" for t in tools), "[/AVAILABLE_TOOLS]"]
        special += ["[/TOOL_RESULTS]"]
    _train(tokenizer, [], [*special, *(f"<0x{byte:02X}>" for byte in range(256))])
    # Of those, only the special ones are found in a text.
    model = json.loads(tokenizer.to_str())
    model["added_tokens"] = [t for t in model["added_tokens"] if t["content"] in special]
    tokenizer = Tokenizer.from_str(json.dumps(model))
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s>:1 $B:1", special_tokens=[("<s>", 1)]
    )
    config = {
        "add_bos_token": True,
        "add_eos_token": False,
        "add_prefix_space": None,
        "added_tokens_decoder": _added(tokenizer),
        "additional_special_tokens": [],
        "bos_token": "<s>",
        "chat_template": template,
        "clean_up_tokenization_spaces": False,
        "eos_token": "</s>",
        "legacy": not marks,
        "model_max_length": 10**30,
        "pad_token": None,
        "sp_model_kwargs": {},
        "spaces_between_special_tokens": False,
        "tokenizer_class": "LlamaTokenizer",
        "unk_token": "<unk>",
        "use_default_system_prompt": False,
    }
    return Published(tokenizer, config)


_TOOL_MARKS = ("list", "call", "response")


def _lfm2(template: str) -> Published:
    """Digits in threes, a mark where each text begins, and no class of its own."""
    tokenizer = Tokenizer(models.BPE(ignore_merges=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(LFM2_WORDS), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    start = "<|startoftext|>"
    tools = [f"<|tool_{kind}_{end}|>" for kind in _TOOL_MARKS for end in ("start", "end")]
    special = ["<|pad|>", start, "<|endoftext|>", "<|im_start|>", "<|im_end|>", *tools]
    _train(tokenizer, pre_tokenizers.ByteLevel.alphabet(), special)
    tokenizer.post_processor = processors.Sequence(
        [
            processors.ByteLevel(add_prefix_space=True, trim_offsets=False),
            processors.TemplateProcessing(
                single=f"{start}:0 $A:0",
                pair=f"{start}:0 $A:0 {start}:1 $B:1",
                special_tokens=[(start, special.index(start))],
            ),
        ]
    )
    config = {
        "add_bos_token": True,
        "add_eos_token": False,
        "added_tokens_decoder": _added(tokenizer),
        "bos_token": start,
        "clean_up_tokenization_spaces": True,
        "eos_token": "<|im_end|>",
        "legacy": False,
        "model_input_names": ["input_ids", "attention_mask"],
        "model_max_length": 10**30,
        "pad_token": "<|pad|>",
        "sp_model_kwargs": {},
        "spaces_between_special_tokens": False,
        "tokenizer_class": "PreTrainedTokenizerFast",
        "use_default_system_prompt": False,
        "use_fast": True,
    }
    return Published(tokenizer, config, template)


def _saved_again(published: Published) -> Published:
    """As transformers 5 saves it, after it has loaded it."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        original = write_checkpoint_texts(folder / "original", published.files(), "mixtral")
        saved = folder / "saved"
        AutoTokenizer.from_pretrained(original).save_pretrained(saved)
        return Published(
            Tokenizer.from_file(str(saved / "tokenizer.json")),
            json.loads((saved / "tokenizer_config.json").read_text()),
            (saved / "chat_template.jinja").read_text(),
            (saved / "additional_chat_templates/tool_use.jinja").read_text(),
        )


def _train(tokenizer: Tokenizer, alphabet: list[str], special: list[str] | None = None) -> None:
    trainer = trainers.BpeTrainer(
        vocab_size=600 if alphabet else 520,
        initial_alphabet=alphabet,
        special_tokens=special or [],
        show_progress=False,
    )
    tokenizer.train_from_iterator(TRAINED_ON * 3, trainer)


KINDS: dict[str, Callable[[], Published]] = {
    "Qwen1.5-MoE-Chat": lambda: _qwen(QWEN2, thinking=False),
    "Qwen3": lambda: _qwen(QWEN3, thinking=True),
    "Qwen3-2507, template in a file": lambda: _qwen(QWEN3, thinking=True, as_file=True),
    "LFM2": lambda: _lfm2(LFM2),
    "OLMoE-Instruct": lambda: _olmoe(OLMOE),
    "OLMoE, with a date": lambda: _olmoe(DATED),
    "Mixtral-Instruct v0.1": lambda: _mixtral(MIXTRAL),
    "Mixtral-8x22B-Instruct": lambda: _mixtral(TWO_TEMPLATES, marks=True),
    "Mixtral-8x22B-Instruct, saved again": lambda: _saved_again(
        _mixtral(TWO_TEMPLATES, marks=True)
    ),
}


def write_checkpoint_texts(folder: Path, files: dict[str, bytes], model_type: str) -> Path:
    """What transformers loads a tokenizer from."""
    folder.mkdir()
    for name, data in files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(data)
    (folder / "config.json").write_text(json.dumps({"model_type": model_type}))
    return folder


def write_bundle_texts(folder: Path, files: dict[str, bytes], rows: int = 1024) -> Path:
    """A bundle that has the files, and an embedding of so many rows by its manifest."""
    manifest, content = sample(1)
    entries = [m.File(n, len(d), hashlib.sha256(d).hexdigest()) for n, d in files.items()]
    embedding = dataclasses.replace(manifest.embedding, bytes=rows * manifest.embedding.row_bytes)
    manifest = dataclasses.replace(
        manifest,
        model=dataclasses.replace(manifest.model, vocab_size=rows),
        embedding=embedding,
        memory=dataclasses.replace(manifest.memory, embedding_bytes=embedding.bytes),
        files=(*manifest.files, *entries),
    )
    for name, data in {**content, **files, "bundle.json": to_bytes(manifest)}.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return folder
