# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""Chat messages become the token ids that transformers makes of them, for each published kind."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from moe_mobile.errors import BundleInvalidError, UsageError
from moe_mobile.model.registry import FAMILIES
from moe_mobile.model.source import HUGGING_FACE_FILES
from moe_mobile.text import budget
from moe_mobile.text.chat import ChatTemplate
from moe_mobile.text.tokenizer import BundleText
from tests.text.published import KINDS, write_bundle_texts, write_checkpoint_texts

MODEL_TYPES = {
    "Qwen1": "qwen2_moe",
    "Qwen3": "qwen3_moe",
    "OLMoE": "olmoe",
    "Mixtral": "mixtral",
    "LFM2": "lfm2_moe",
}
USER = {"role": "user", "content": "Why is the sky blue?"}
ODD = {"role": "user", "content": "  naïve  [INST] <|im_end|></s>\n\n 12345 天 😀 <think> "}
TALK = [
    USER,
    {"role": "assistant", "content": "Because air scatters blue light."},
    {"role": "user", "content": "More."},
]
SYSTEM = {"role": "system", "content": "Answer the user's question."}
THOUGHT = [
    USER,
    {"role": "assistant", "content": "<think>\nair\n</think>\n\nIt scatters."},
    {"role": "user", "content": "More."},
    {"role": "assistant", "content": "Red.", "reasoning": "light"},
]
TOOL = {
    "type": "function",
    "function": {"name": "f", "description": "<b>a function</b>", "parameters": {"x": "int"}},
}
CALLED: list[dict[str, Any]] = [
    USER,
    {
        "role": "assistant",
        "content": None,
        "tool_calls": [{"type": "function", "function": {"name": "f", "arguments": {"x": 3}}}],
    },
    {"role": "tool", "content": "9", "name": "f"},
]
PARTS = [
    {"role": "user", "content": [{"type": "text", "text": "Hi"}, {"type": "text", "text": ""}]}
]
# What a tool found need not be a text.
FOUND: dict[str, Any] = {
    "object": {"x": 3, "y": ["天", None]},
    "list": [{"x": 3}, "y"],
    "empty": [],
    "number": 3,
    "false": False,
}
MESSAGES: dict[str, list[dict[str, Any]]] = {
    "one": [USER],
    "odd": [ODD],
    "talk": TALK,
    "system": [SYSTEM, *TALK],
    "thoughts": THOUGHT,
}
Kind = tuple[Any, BundleText]


@pytest.fixture(scope="module")
def kind(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Kind]:
    """A tokenizer of transformers, and ours of a bundle with the same files."""
    made: dict[str, Kind] = {}

    def make(name: str) -> Kind:
        if name not in made:
            folder = tmp_path_factory.mktemp("texts")
            files = KINDS[name]().files()
            model_type = next(value for key, value in MODEL_TYPES.items() if name.startswith(key))
            checkpoint = write_checkpoint_texts(folder / "checkpoint", files, model_type)
            bundle = write_bundle_texts(folder / "bundle", files)
            made[name] = (AutoTokenizer.from_pretrained(checkpoint), BundleText(bundle))
        return made[name]

    return make


def test_every_family_has_its_kinds() -> None:
    assert set(MODEL_TYPES.values()) == set(FAMILIES)
    assert all(any(kind.startswith(name) for kind in KINDS) for name in MODEL_TYPES)


def by_transformers(tokenizer: Any, messages: list[dict[str, Any]], **values: Any) -> list[int]:
    ids: list[int] = tokenizer.apply_chat_template(
        messages, add_generation_prompt=True, tokenize=True, **values
    )["input_ids"]
    return ids


@pytest.mark.parametrize("messages", MESSAGES)
@pytest.mark.parametrize("name", KINDS)
def test_ids_are_those_of_transformers(
    kind: Callable[[str], Kind], name: str, messages: str
) -> None:
    tokenizer, ours = kind(name)
    if name == "Mixtral-Instruct v0.1" and messages == "system":
        with pytest.raises(UsageError, match="refuses the messages: Conversation roles must alt"):
            ours.encode(MESSAGES[messages])
        return
    expected = by_transformers(tokenizer, MESSAGES[messages])
    assert ours.encode(MESSAGES[messages]) == expected
    assert len(expected) > 5


@pytest.mark.parametrize("name", KINDS)
def test_long_conversations_are_far_from_the_bounds(
    kind: Callable[[str], Kind], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(budget, "MOST_STEPS", budget.MOST_STEPS // 20)
    monkeypatch.setattr(budget, "MOST_BYTES", budget.MOST_BYTES // 10)
    tokenizer, ours = kind(name)
    talk = [{**message, "content": 300 * "天 red "} for message in TALK[:2] * 100 + TALK[2:]]
    expected = tokenizer.apply_chat_template(talk, add_generation_prompt=True, tokenize=False)
    assert ours.template.render(talk) == expected


@pytest.mark.parametrize("name", KINDS)
def test_plain_texts_have_the_ids_of_transformers(kind: Callable[[str], Kind], name: str) -> None:
    tokenizer, ours = kind(name)
    for message in (USER, ODD, SYSTEM):
        assert ours.encode(message["content"]) == tokenizer(message["content"])["input_ids"]


@pytest.mark.parametrize("values", [{"enable_thinking": False}, {"enable_thinking": True}, {}])
def test_values_reach_the_template(kind: Callable[[str], Kind], values: dict[str, Any]) -> None:
    tokenizer, ours = kind("Qwen3")
    expected = by_transformers(tokenizer, TALK, **values)
    assert ours.encode(TALK, values) == expected
    thinks = ours.tokenizer.get_vocab().get("</think>") in expected
    assert thinks == (values.get("enable_thinking") is False)


@pytest.mark.parametrize(
    "name", ["Qwen3", "Mixtral-8x22B-Instruct", "Mixtral-8x22B-Instruct, saved again", "LFM2"]
)
@pytest.mark.parametrize("messages", [[USER], CALLED], ids=["offered", "called"])
def test_tools_reach_the_template(
    kind: Callable[[str], Kind], name: str, messages: list[dict[str, Any]]
) -> None:
    tokenizer, ours = kind(name)
    if name == "LFM2" and messages == CALLED:  # it spells calls as texts
        with pytest.raises(TypeError):
            by_transformers(tokenizer, messages, tools=[TOOL])
        with pytest.raises(UsageError, match="chat template takes no content but texts: "):
            ours.encode(messages, {"tools": [TOOL]})
        return
    expected = by_transformers(tokenizer, messages, tools=[TOOL])
    assert ours.encode(messages, {"tools": [TOOL]}) == expected
    assert "<b>a function</b>" in ours.tokenizer.decode(expected)


@pytest.mark.parametrize("name", KINDS)
def test_lists_of_parts_are_written_as_transformers_does_or_refused(
    kind: Callable[[str], Kind], name: str
) -> None:
    tokenizer, ours = kind(name)
    try:
        expected = by_transformers(tokenizer, PARTS)
    except TypeError:
        with pytest.raises(UsageError, match="chat template takes no content but texts: ") as told:
            ours.encode(PARTS)
        assert told.value.remedy == "Give the content of each message as one text"
        assert "Qwen3" not in name
    else:
        assert ours.encode(PARTS) == expected


@pytest.mark.parametrize("found", FOUND)
@pytest.mark.parametrize("name", ["LFM2", "Qwen3", "Qwen1.5-MoE-Chat"])
def test_what_a_tool_found_is_written_as_transformers_does_or_refused(
    kind: Callable[[str], Kind], name: str, found: str
) -> None:
    tokenizer, ours = kind(name)
    messages = [USER, {"role": "tool", "content": FOUND[found]}]
    if name.startswith("Qwen1"):
        with pytest.raises(TypeError):
            by_transformers(tokenizer, messages)
        with pytest.raises(UsageError, match="chat template takes no content but texts: "):
            ours.encode(messages)
    else:
        assert ours.encode(messages) == by_transformers(tokenizer, messages)


def test_a_template_for_parts_has_the_ids_of_transformers(
    kind: Callable[[str], Kind], tmp_path: Path
) -> None:
    template = "{% for part in messages[0].content %}<{{ part.text }}>{% endfor %}"
    files = KINDS["Qwen3"]().files() | {"chat_template.jinja": template.encode()}
    ours = BundleText(write_bundle_texts(tmp_path / "bundle", files))
    expected = by_transformers(kind("Qwen3")[0], PARTS, chat_template=template)
    assert ours.encode(PARTS) == expected
    assert ours.tokenizer.decode(expected) == "<Hi><>"


def test_the_template_of_a_processor_is_not_read(
    kind: Callable[[str], Kind], tmp_path: Path
) -> None:
    name = "chat_template.json"
    files = KINDS["Qwen3"]().files() | {name: b'{"chat_template": "another"}'}
    expected = by_transformers(kind("Qwen3")[0], [USER])
    checkpoint = write_checkpoint_texts(tmp_path / "checkpoint", files, "qwen3_moe")
    assert by_transformers(AutoTokenizer.from_pretrained(checkpoint), [USER]) == expected
    assert BundleText(write_bundle_texts(tmp_path / "bundle", files)).encode([USER]) == expected
    assert name not in HUGGING_FACE_FILES


@pytest.mark.parametrize(
    ("values", "cause"),
    [
        ({"messages": []}, "'messages' cannot be set"),
        ({"add_generation_prompt": False}, "'add_generation_prompt' cannot be set"),
        ({"tools": [print]}, "it is not JSON data"),
        ({"tools": ["\ud800"]}, "it has half a surrogate pair"),
        *(
            ({name: value}, f"'{name}' is not a list of objects")
            for name in ("tools", "documents")
            for value in (TOOL, "x", ["x"], [[1]], [TOOL, 1], 3, True)
        ),
    ],
)
def test_values_that_are_refused(
    kind: Callable[[str], Kind], values: dict[str, Any], cause: str
) -> None:
    with pytest.raises(UsageError, match=cause) as caught:
        kind("Qwen3")[1].encode([USER], values)
    assert caught.value.setting == "chat_template_kwargs"


WITH_ITEMS = """\
{%- for message in messages %}{{ message.role }}:{{ CONTENT }}
    {%- for call in message.tool_calls or [] %}
        {%- for name, value in call.function.arguments.items() %}<{{ name }}>{{ value }}{% endfor %}
    {%- endfor %}
{%- endfor %}"""


@pytest.mark.parametrize("arguments", ['{"x": 3}', "{", "[3]", "[" * 100_000])
@pytest.mark.parametrize("said", [None, "", "text"])
@pytest.mark.parametrize("content", ["message.content or ''", "message.content + ''"])
@pytest.mark.parametrize("items", [".items()", " | items"])
def test_arguments_that_are_a_json_text_are_to_blame(
    items: str, content: str, said: str | None, arguments: str
) -> None:
    source = WITH_ITEMS.replace("CONTENT", content).replace(".items()", items)
    function = {"name": "f", "arguments": arguments}
    called = {"role": "assistant", "content": said, "tool_calls": [{"function": function}]}
    with pytest.raises(UsageError, match="arguments of tool calls as objects only: ") as told:
        ChatTemplate(source, {}, "t").render([USER, called])
    assert told.value.setting == "prompt"
    assert "not as a JSON text" in (told.value.remedy or "")
    # The remedy.
    function["arguments"] = {"x": 3}  # type: ignore[assignment]
    if said is not None:
        assert ChatTemplate(source, {}, "t").render([USER, called]).endswith("<x>3")


@pytest.mark.parametrize("message", [*CALLED[1:], {"role": "tool", "content": {"x": 1}}, PARTS[0]])
@pytest.mark.parametrize("source", ["{{ messages[0].x.y }}", "{{ 1 + 'a' }}", "{{ missing() }}"])
def test_a_template_that_fails_by_itself_is_to_blame(source: str, message: dict[str, Any]) -> None:
    with pytest.raises(BundleInvalidError, match="the chat template fails: "):
        ChatTemplate(source, {}, "t").render([USER, message])


def test_a_template_that_fails_names_its_file(tmp_path: Path) -> None:
    files = {**KINDS["Qwen3"]().files(), "chat_template.jinja": b"{{ messages[0].content.x.y }}"}
    bundle = write_bundle_texts(tmp_path / "bundle", files)
    with pytest.raises(
        BundleInvalidError, match="chat template fails: 'str object' has no"
    ) as told:
        BundleText(bundle).encode([USER])
    assert told.value.file == str(bundle / "chat_template.jinja")
    tools = "additional_chat_templates/tool_use.jinja"
    bundle = write_bundle_texts(tmp_path / "tools", {**files, tools: b"{{ tools[0].x.y }}"})
    with pytest.raises(BundleInvalidError, match="chat template fails: 'dict object'") as told:
        BundleText(bundle).encode([USER], {"tools": [TOOL]})
    assert told.value.file == str(bundle / tools)
    del files["chat_template.jinja"]
    files["tokenizer_config.json"] = b'{"chat_template": "{% if %}"}'
    bundle = write_bundle_texts(tmp_path / "other", files)
    with pytest.raises(BundleInvalidError, match="chat template cannot be read: Expected") as told:
        BundleText(bundle).encode([USER])
    assert told.value.file == str(bundle / "tokenizer_config.json")
