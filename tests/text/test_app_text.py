# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""The app's text, in Rust, is the text of Python: the same ids, the same chats, or a refusal."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from moe_mobile.errors import BundleInvalidError, MoeMobileError, UsageError
from moe_mobile.text.chat import ChatTemplate
from moe_mobile.text.detokenizer import Detokenizer
from moe_mobile.text.tokenizer import BundleText
from tests.text import test_chat, test_chat_ids, test_detokenizer
from tests.text.published import KINDS, write_bundle_texts
from tests.text.rust import ARM64, RustText, built, cargo
from tests.tokenizers import sequence, word_level

Both = tuple[BundleText, RustText]
Outcomes = tuple[Any, Any]
QEMU = "qemu-aarch64-static"


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], Both]]:
    """Python's texts of a published kind, and the library's."""
    made: dict[str, Both] = {}
    with ExitStack() as stack:

        def make(name: str) -> Both:
            if name not in made:
                folder = tmp_path_factory.mktemp("bundle")
                bundle = write_bundle_texts(folder, KINDS[name]().files())
                made[name] = BundleText(bundle), stack.enter_context(RustText(bundle))
            return made[name]

        yield make


def test_the_librarys_own_tests_pass() -> None:
    built()
    made = cargo("test", "--locked")
    assert made.returncode == 0, made.stdout[-20000:] + made.stderr[-20000:]
    assert " passed; 0 failed" in made.stdout


def outcome(work: Callable[[], Any]) -> Any:
    """What it gives, or the kind of its failure."""
    try:
        return work()
    except MoeMobileError as error:
        return type(error)


CHATS: dict[str, tuple[list[dict[str, Any]], dict[str, Any] | None]] = {
    **{name: (messages, None) for name, messages in test_chat_ids.MESSAGES.items()},
    "no thinking": (test_chat_ids.TALK, {"enable_thinking": False}),
    "thinking": (test_chat_ids.TALK, {"enable_thinking": True}),
    "tools": ([test_chat_ids.USER], {"tools": [test_chat_ids.TOOL]}),
    "called": (test_chat_ids.CALLED, {"tools": [test_chat_ids.TOOL]}),
    "parts": (test_chat_ids.PARTS, None),
    **{
        f"found {name}": ([test_chat_ids.USER, {"role": "tool", "content": found}], None)
        for name, found in test_chat_ids.FOUND.items()
    },
}


@pytest.mark.parametrize("chat", CHATS)
@pytest.mark.parametrize("name", KINDS)
def test_chats_of_published_kinds_are_the_same(
    both: Callable[[str], Both], name: str, chat: str
) -> None:
    python, rust = both(name)
    messages, values = CHATS[chat]
    rendered = outcome(lambda: python.template.render(messages, values))
    assert outcome(lambda: rust.render(messages, values)) == rendered
    expected = outcome(lambda: python.encode(messages, values))
    assert outcome(lambda: rust.encode(messages, values)) == expected


@pytest.mark.parametrize("name", KINDS)
def test_long_conversations_are_far_from_the_bounds(both: Callable[[str], Both], name: str) -> None:
    python, rust = both(name)
    talk = [{**one, "content": 300 * "天 red "} for one in test_chat_ids.TALK[:2] * 300]
    talk.append(test_chat_ids.USER)
    assert rust.render(talk) == python.template.render(talk)


@pytest.mark.parametrize("name", KINDS)
def test_texts_of_published_kinds_are_the_same(both: Callable[[str], Both], name: str) -> None:
    python, rust = both(name)

    @given(st.text(max_size=60) | st.text(st.sampled_from("aé天😀\u200d \n\t'<|>_▁s1\ufeff\ufffd")))
    @example("\ufeffHi")
    @example("<|im_end|></s> [INST]   double  \r\n spaces 12345 'll <think>")
    @example("👨‍👩‍👧‍👦 नमस्ते ﷺ \uff46 ﬁ Å A\u030a")
    def check(text: str) -> None:
        ids = python.encode(text)
        assert rust.encode(text) == ids
        assert rust.ask("decode", ids=ids) == python.tokenizer.decode(ids)
        pieces = rust.ask("stream", prompt=[], ids=ids)
        assert "".join(pieces) == python.tokenizer.decode(ids) or "\ufffd" in text

    check()


@pytest.mark.parametrize("name", KINDS)
def test_any_tokens_are_streamed_as_in_python(both: Callable[[str], Both], name: str) -> None:
    python, rust = both(name)
    ids = st.lists(st.sampled_from(sorted(python.tokenizer.get_vocab().values())), max_size=12)

    @given(ids, ids)
    def check(prompt: list[int], tokens: list[int]) -> None:
        stream = Detokenizer(python.tokenizer, prompt)
        expected = [*(stream.step(token) for token in tokens), stream.finish()]
        assert rust.ask("stream", prompt=prompt, ids=tokens) == expected

    check()


@pytest.mark.parametrize("name", ["BYTE_LEVEL", "BYTE_FALLBACK"])
def test_any_bytes_are_streamed_as_in_python(name: str, tmp_path: Path) -> None:
    tokenizer: Tokenizer = getattr(test_detokenizer, name)
    files = {"tokenizer.json": tokenizer.to_str().encode()}
    with RustText(write_bundle_texts(tmp_path / "bundle", files)) as rust:

        @given(st.text("aé🙂\ufffd"), st.lists(st.integers(0, 260)), st.integers(0, 40))
        def check(text: str, more: list[int], cut: int) -> None:
            ids = [*tokenizer.encode(text, add_special_tokens=False).ids, *more]
            stream = Detokenizer(tokenizer, ids[:cut])
            expected = [*(stream.step(token) for token in ids[cut:]), stream.finish()]
            assert rust.ask("stream", prompt=ids[:cut], ids=ids[cut:]) == expected

        check()


PLAIN = KINDS["Qwen3"]


def _with_template(folder: Path, source: str, config: dict[str, Any] | None = None) -> Path:
    """A bundle with this template, and special tokens."""
    config = config or {**test_chat.TOKENS, "added_tokens_decoder": {}}
    files = PLAIN().files() | {"tokenizer_config.json": json.dumps(config).encode()}
    return write_bundle_texts(folder, files | {"chat_template.jinja": source.encode()})


SOURCES = {
    **test_chat.TEMPLATES,
    "items": test_chat_ids.WITH_ITEMS.replace("CONTENT", "message.content or ''"),
    "values": "{{ messages | tojson }}{{ messages }}{{ tools }}",
    "numbers": "{{ [1, -2.5, 1e16, 1e-5, 0.1 + 0.2, 7 // 2, -7 // 2, -7 % 3, 2 ** 10]"
    " }}{{ 123456789.125 }}",
    "texts": "{{ messages[0].content.split() }}{{ messages[0].content.title() }}"
    "{{ messages[0].content | capitalize }}{{ messages[0].content | indent(3) }}",
}


@pytest.mark.parametrize("messages", [[test_chat.USER], test_chat.TALK, test_chat_ids.CALLED])
@pytest.mark.parametrize("name", SOURCES)
def test_templates_of_many_kinds_are_the_same(
    name: str, messages: list[dict[str, Any]], tmp_path: Path
) -> None:
    bundle = _with_template(tmp_path / "bundle", SOURCES[name])
    python = BundleText(bundle).template
    with RustText(bundle) as rust:
        assert outcome(lambda: rust.render(messages)) == outcome(lambda: python.render(messages))


# Expressions of which each is the same, or refused.
VALUES = (
    "1", "0", "-3", "2.5", "true", "false", "none", "missing", "''", "'ab'", "'3'", "' é\\n'", "[]",
    "[1, 'a', none]", "{}", "{'a': 1, 'b': [true]}", "messages", "messages[0]",
    "messages[0].items()",
    "messages[0].content", "range(3)", "tool",
)  # fmt: skip
OPERATORS = (
    "+", "-", "*", "/", "//", "%", "~", "==", "!=", "<", "<=", ">", ">=", "in", "not in", "and",
    "or",
)  # fmt: skip
FILTERS = (
    "abs", "capitalize", "count", "d('x')", "default('x', true)", "dictsort", "first", "float",
    "int", "items", "join", "join('-')", "last", "length", "list", "lower", "map('string')",
    "map(attribute='a')", "max", "min", "reject", "replace('a', 'b')", "reverse", "round", "select",
    "selectattr('a')", "sort", "sort(reverse=true)", "string", "sum", "title", "tojson",
    "tojson(indent=2)", "tojson(separators=(',', ':'), sort_keys=true)", "trim", "unique", "upper",
    "batch(2)", "slice(2)", "wordcount", "e", "safe",
)  # fmt: skip
TESTS = (
    "boolean", "defined", "divisibleby 3", "eq 1", "even", "false", "float", "in [1, 'ab']",
    "integer", "iterable", "mapping", "none", "number", "odd", "sequence", "string", "true",
    "undefined", "lt 2", "callable",
)  # fmt: skip
ENDS = (
    "[0]", "[-1]", "['a']", "[1:]", "[::-1]", "[:-1]", ".a", ".items", ".items()", ".get('a')",
    ".keys()",
    ".strip()", ".split('a')", ".split()", ".rsplit('a', 1)", ".startswith('a')",
    ".endswith(('b', 'c'))",
    ".upper()", ".title()", ".lower()", ".replace('a', 'b')", ".find('b')", ".count('a')",
    ".splitlines()",
    ".lstrip('a')", ".partition('a')", ".isdigit()", ".isalpha()", ".index('a')", ".capitalize()",
)  # fmt: skip


@st.composite
def expressions(draw: st.DrawFn, depth: int = 2) -> str:
    """Of Jinja, some without sense."""
    if depth == 0:
        return draw(st.sampled_from(VALUES))
    inner = expressions(depth - 1)
    kind = draw(st.integers(0, 6))
    one = draw(inner)
    if kind == 0:
        return one
    if kind == 1:
        return f"({one}) {draw(st.sampled_from(OPERATORS))} ({draw(inner)})"
    if kind == 2:
        return f"({one}) | {draw(st.sampled_from(FILTERS))}"
    if kind == 3:
        return f"({one}) is {draw(st.sampled_from(('', 'not ')))}{draw(st.sampled_from(TESTS))}"
    if kind == 4:
        return f"({one}){draw(st.sampled_from(ENDS))}"
    if kind == 5:
        return f"({one}) if ({draw(inner)}) else ({draw(inner)})"
    return f"[{one}, {draw(inner)}]"


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], Outcomes]]:
    """What a template writes in Python, and here."""
    tokens = {**test_chat.TOKENS, "added_tokens_decoder": {}}
    files = {**PLAIN().files(), "tokenizer_config.json": json.dumps(tokens).encode()}
    messages, values = [test_chat.USER], {"tool": test_chat_ids.TOOL}
    with RustText(write_bundle_texts(tmp_path_factory.mktemp("bundle"), files)) as rust:

        def run(source: str) -> Outcomes:
            expected = outcome(
                lambda: ChatTemplate(source, test_chat.TOKENS, "t").render(messages, values)
            )
            found = outcome(
                lambda: rust.ask(
                    "render", template=source, messages=messages, chat_template_kwargs=values
                )
            )
            return expected, found

        yield run


def require_same(evaluated: Callable[[str], Outcomes], source: str) -> None:
    """The same as in Python, or refused."""
    expected, found = evaluated(source)
    if isinstance(expected, str) and "<generator object" not in expected:
        assert found in (expected, BundleInvalidError), source


@settings(derandomize=True)
@given(expressions(), expressions())
def test_expressions_are_the_same_or_refused(
    evaluated: Callable[[str], Outcomes], one: str, other: str
) -> None:
    require_same(evaluated, "{{ " + one + " }}|{% if (" + other + ") %}yes{% endif %}")


def test_expressions_are_not_all_refused(tmp_path: Path) -> None:
    source = "{{ 1 + 2 }}{{ messages[0].content.strip() | upper }}{{ tool | tojson }}"
    bundle = _with_template(tmp_path / "bundle", source)
    with RustText(bundle) as rust:
        values = {"tool": test_chat_ids.TOOL}
        assert rust.render([test_chat.USER], values).startswith("3WHY IS THE SKY BLUE?{")


@pytest.mark.parametrize(
    "source",
    [
        "{% for a in [1, 2] %}\n  {%- if loop.first %}\n x\n  {% endif %}\n{% endfor %}\n\n",
        "  {% set a = 1 %}  \n{{ a }}\n\n",
        "a {#- comment -#} b {%+ if true %} c {% endif +%}\n d",
        "{% raw %}{{ x }}{% endraw %}{{ '{{' }}",
        "{% macro m(x, y=none) %}[{{ x }}{{ y }}{{ messages|length }}]{% endmacro %}"
        "{{ m(1) }}{{ m('a', y=2) }}",
        "{% call(x) m() %}{{ x }}{% endcall %}{% macro m() %}{{ caller(1) }}{% endmacro %}",
        "{% set x %} a {{ 1 }} {% endset %}[{{ x }}]{% filter upper %}a{% endfilter %}",
        "{% for k, v in {'a': 1, 'b': 2}.items() %}"
        "{{ loop.index }}{{ k }}{{ v }}{{ loop.last }}{% endfor %}",
        "{% for a in 'abc' %}{{ loop.previtem }}{{ loop.nextitem }}{{ loop.revindex }}{% endfor %}",
        "{% for a in [] %}x{% else %}empty{% endfor %}{% for a in missing %}x{% endfor %}",
        "{% set ns = namespace(a=1) %}{% if true %}{% set ns.a = 2 %}{% endif %}"
        "{{ ns.a }}{{ ns.b }}",
        "{% with a = 1, b = 2 %}{{ a + b }}{% endwith %}{{ a is defined }}",
        "{% if messages[0].role == 'user' and not tools %}ok{% elif true %}no{% else %}no"
        "{% endif %}",
        "{{ messages[0]['content'] if messages[0]['content'] is string else '' }}",
        "{{ 'a' 'b' }}", "{{ 1_000 }}", "{{ 'a\\tb\\u00e9\\x41' }}", "{{ \"a\\'b\" }}",
    ],
)  # fmt: skip
def test_statements_are_the_same_or_refused(
    evaluated: Callable[[str], Outcomes], source: str
) -> None:
    require_same(evaluated, source)
    require_same(evaluated, source.replace("\n", "\r\n"))


@pytest.mark.parametrize(
    "source",
    [
        source
        for mark in ("parametrize",)
        for test in (
            test_chat.test_hostile_templates_end_in_a_typed_error,
            test_chat.test_what_makes_long_texts_is_refused_before_it_does,
        )
        for found in test.pytestmark  # type: ignore[attr-defined]
        if found.name == mark
        for source in found.args[1]
    ]
    + test_chat.IN_ALL,
)
def test_hostile_templates_end_as_in_python(source: str, tmp_path: Path) -> None:
    """Typed, with the file, in bounded time; the process goes on."""
    begin = "{% set x = 'x' * 100000 %}{% set y = x + '' %}{% set keep = namespace(x=[]) %}"
    source = (begin + source if "x" in source else source).replace("HUGE", test_chat.HUGE)
    bundle = _with_template(tmp_path / "bundle", source)
    with RustText(bundle) as rust:
        found = outcome(lambda: rust.render([test_chat.USER]))
        assert found is BundleInvalidError or len(found) < 5_000_000
        assert rust.encode("Why is the sky blue?") == BundleText(bundle).encode(
            "Why is the sky blue?"
        )


@pytest.mark.parametrize(
    "data",
    [
        b"{",
        b"[" * 100_000,
        word_level(model={"type": "WordLevel", "vocab": {"a": 9999}, "unk_token": "a"}),
        word_level(normalizer={"type": "Prepend", "prepend": "x" * 1000}),
        word_level(
            normalizer=sequence(
                "normalizers",
                *[{"type": "Replace", "pattern": {"String": "a"}, "content": "a" * 30}] * 2,
            )
        ),
        *(
            word_level(
                pre_tokenizer={
                    "type": "Split",
                    "pattern": {"Regex": "(" * count},
                    "behavior": "Isolated",
                }
            )
            for count in (1, 50_000)
        ),
        word_level(model={"type": "BPE", "vocab": {"aé": 0, "a": 1, "é": 2}, "merges": ["a é"],
                          "continuing_subword_prefix": "##"}),
        word_level()[:-1] + b', "model": {}}',
    ],
)  # fmt: skip
def test_hostile_tokenizers_end_in_a_typed_error(data: bytes, tmp_path: Path) -> None:
    bundle = write_bundle_texts(tmp_path / "bundle", {"tokenizer.json": data})
    with pytest.raises(BundleInvalidError):
        BundleText(bundle).encode("a")
    with RustText(bundle) as rust, pytest.raises(BundleInvalidError) as told:
        rust.encode("a")
    assert told.value.file == "tokenizer.json"


def test_a_prompt_that_no_context_takes_is_refused(tmp_path: Path) -> None:
    bundle = write_bundle_texts(tmp_path / "bundle", PLAIN().files())
    manifest = json.loads((bundle / "bundle.json").read_text())
    manifest["model"]["context_length"] = 64
    (bundle / "bundle.json").write_text(json.dumps(manifest))
    long = "天 " * 500_000
    with RustText(bundle) as rust:
        for prompt, setting in ((long, "text"), ([{"role": "user", "content": long}], "messages")):
            with pytest.raises(UsageError, match="more than 64 tokens do not fit") as told:
                rust.encode(prompt)
            assert told.value.setting == setting
        assert len(rust.encode("a" * 64)) <= 64


@pytest.mark.parametrize(
    ("config", "special"),
    [
        ({"bos_token": "<a>", "image_token": {"content": "<i>"}, "x": 1}, {"bos_token": "<b>"}),
        ({"bos_token": "<a>", "added_tokens_decoder": {}}, {"bos_token": "<b>"}),
        (
            {"bos_token": None, "extra_special_tokens": {"own": "<o>"}},
            {"eos_token": {"content": 3}},
        ),
        ({"additional_special_tokens": ["<x>"], "pad_token": "<p>"}, {"other_token": "<y>"}),
    ],
)
def test_templates_see_the_same_special_tokens(
    config: dict[str, Any], special: dict[str, Any], tmp_path: Path
) -> None:
    names = ("bos_token", "eos_token", "pad_token", "image_token", "own", "other_token", "x")
    source = "".join(f"{{{{ {name} }}}}," for name in names)
    files = PLAIN().files() | {
        "tokenizer_config.json": json.dumps(config).encode(),
        "special_tokens_map.json": json.dumps(special).encode(),
        "chat_template.jinja": source.encode(),
    }
    bundle = write_bundle_texts(tmp_path / "bundle", files)
    with RustText(bundle) as rust:
        messages = [test_chat.USER]
        assert rust.render(messages) == BundleText(bundle).template.render(messages)


@pytest.mark.slow
def test_the_arm64_library_has_the_same_ids(tmp_path: Path) -> None:
    if shutil.which(QEMU) is None or shutil.which("aarch64-linux-gnu-gcc") is None:
        pytest.skip(f"needs {QEMU} and aarch64-linux-gnu-gcc: run `make test-tools`")
    folder = built(ARM64)
    emulator = [QEMU, "-L", "/usr/aarch64-linux-gnu"]
    bundle = write_bundle_texts(tmp_path / "bundle", KINDS["Qwen3"]().files())
    python = BundleText(bundle)
    with RustText(bundle, emulator=emulator, folder=folder) as rust:
        for prompt in ("Why is the sky blue? 天 😀", test_chat_ids.TALK):
            ids = python.encode(prompt)
            assert rust.encode(prompt) == ids
        assert "".join(rust.ask("stream", prompt=[], ids=ids)) == python.tokenizer.decode(ids)
