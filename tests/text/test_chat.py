# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""Chat templates: the same text as transformers renders, and none that escapes its sandbox."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jinja2
import pytest
from transformers import PreTrainedTokenizerFast

from moe_mobile.errors import BundleInvalidError, UsageError
from moe_mobile.text import budget
from moe_mobile.text.chat import ChatTemplate

USER = {"role": "user", "content": " Why is the sky blue? "}
TALK = [
    {"role": "system", "content": "Answer <b>briefly</b>."},
    USER,
    {"role": "assistant", "content": "Räyleigh\nscattering."},
    {"role": "user", "content": "More."},
]
TOKENS = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}

# In the manner of well-known models' own.
CHAT_ML = """\
{% for message in messages %}
    {%- if loop.first and message.role != 'system' %}
        {{- '<|im_start|>system\\nYou are a helpful assistant.<|im_end|>\\n' }}
    {%- endif %}
    {{- '<|im_start|>' + message['role'] + '\\n' + message.content | trim + '<|im_end|>' + '\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
{%- endif %}
"""
MISTRAL = """\
{%- if messages[0]['role'] == 'system' %}
    {%- set system = messages[0]['content'] %}
    {%- set rest = messages[1:] %}
{%- else %}
    {%- set rest = messages %}
{%- endif %}
{{- bos_token }}
{%- for message in rest %}
    {%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}
        {{- raise_exception('Conversation roles must alternate user/assistant') }}
    {%- endif %}
    {%- if message['role'] == 'user' %}
        {{- ' [INST] ' + (system + '\\n\\n' if loop.first and system is defined else '') }}
        {{- message['content'] + ' [/INST]' }}
    {%- else %}
        {{- ' ' + message['content'] + eos_token }}
    {%- endif %}
{%- endfor %}
"""
OLMOE = """\
{{ bos_token }}{% for message in messages %}
{% if message['role'] == 'system' %}
{{ '<|system|>\\n' + message['content'] + '\\n' }}
{% elif message['role'] == 'user' %}
{{ '<|user|>\\n' + message['content'] + '\\n' }}
{% elif message['role'] == 'assistant' %}
{% generation %}{{ '<|assistant|>\\n' + message['content'] + eos_token + '\\n' }}{% endgeneration %}
{% endif %}
{% if loop.last and add_generation_prompt %}
{{ '<|assistant|>\\n' }}
{% endif %}
{% endfor %}
"""
EVERYTHING = """\
{% set ns = namespace(last=-1) %}
{% macro shown(message) %}{{ message | tojson(indent=2) }}{% endmacro %}
{% for i in range(messages | length) %}
    {% if messages[i].role == 'assistant' %}{% continue %}{% endif %}
    {% if i > 2 %}{% set ns.last = i %}{% break %}{% endif %}
{{ shown(messages[i]) }}
{% endfor %}
{{ ns.last }} {{ tools is none }} {{ sep_token is defined }} {{ dict(a=1) | tojson }}
{{ strftime_now('%Y') | length }} {{ messages | map(attribute='role') | join(',') }}
"""
TEMPLATES = {"chatml": CHAT_ML, "mistral": MISTRAL, "olmoe": OLMOE, "everything": EVERYTHING}


def by_transformers(source: str, messages: list[dict[str, str]], prompt: bool) -> str:
    from tokenizers import Tokenizer, models

    tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.BPE()), **TOKENS)
    text: str = tokenizer.apply_chat_template(
        messages, chat_template=source, tokenize=False, add_generation_prompt=prompt
    )
    return text


@pytest.mark.parametrize("prompt", [True, False])
@pytest.mark.parametrize("messages", [[USER], TALK, TALK[1:]], ids=["one", "system", "two"])
@pytest.mark.parametrize("name", TEMPLATES)
def test_messages_are_written_as_transformers_does(
    name: str, messages: list[dict[str, str]], prompt: bool
) -> None:
    ours = ChatTemplate(TEMPLATES[name], TOKENS, name)
    expected = by_transformers(TEMPLATES[name], messages, prompt)
    assert ours.render(messages, add_generation_prompt=prompt) == expected
    assert "blue?" in expected


def test_what_the_template_refuses_is_the_users_error() -> None:
    with pytest.raises(UsageError, match="refuses the messages: Conversation roles") as caught:
        ChatTemplate(MISTRAL, TOKENS, "t").render([USER, USER])
    assert caught.value.setting == "prompt"


@pytest.mark.parametrize(
    ("messages", "cause"),
    [
        ([], "no messages"),
        (["hello"], "message 0 is not a mapping"),
        ([USER, {"role": "user"}], "message 1 has no text 'content'"),
        ([{"content": "x"}], "message 0 has no text 'role'"),
        ([{"role": "user", "content": 5}], "has no text 'content'"),
        ([{"role": "user", "content": {"x": 1}}], "has no text 'content'"),
        ([{"role": "tool"}], "message 0 has no text 'content'"),
        ([{"role": "tool", "content": object()}], "message 0 is not JSON data"),
        ([{"role": "user", "content": ["x"]}], "not all parts of message 0's content are texts"),
        ([USER, {"role": "user", "content": [{"type": "image"}]}], "not all parts of message 1's"),
        ([USER, {"role": "user", "content": "x\ud800"}], "message 1 has half a surrogate pair"),
        ([{**USER, "name": ["\udc00"]}], "message 0 has half a surrogate pair"),
        ([{**USER, "more": object()}], "message 0 is not JSON data"),
    ],
)
def test_malformed_messages_are_refused(messages: Any, cause: str) -> None:
    with pytest.raises(UsageError, match=cause) as caught:
        ChatTemplate(CHAT_ML, TOKENS, "t").render(messages)
    assert caught.value.setting == "prompt"


def test_data_that_is_nested_too_deeply_is_refused() -> None:
    template, refused = ChatTemplate("", {}, "t"), set()
    limit = sys.getrecursionlimit()
    for depth in range(limit - 200, limit):
        with contextlib.suppress(RecursionError):  # of json.loads
            data = {"more": json.loads("[" * depth + "]" * depth)}
            for message, values in (({**USER, **data}, {}), (USER, data)):
                try:
                    template.render([message], values)
                except UsageError as error:
                    refused.add((error.setting, error.cause))
                except RecursionError:
                    pytest.fail(f"at {depth}")
    assert refused == {
        ("prompt", "message 0 is not JSON data"),
        ("chat_template_kwargs", "it is not JSON data"),
    }


@pytest.mark.parametrize(
    "source",
    [
        "{{ messages.__class__ }}{{ messages.__class__.__mro__ }}",
        "{{ ''.__class__.__base__.__subclasses__() }}",
        "{{ raise_exception.__globals__['__builtins__']['open']('/etc/hostname').read() }}",
        "{{ range.__init__.__globals__ }}",
        "{{ range._left }}{{ range.__call__.__func__.__globals__ }}",
        "{{ self.__init__.__globals__ }}",
        "{{ cycler.__init__.__globals__.os.popen('id').read() }}",
        "{{ lipsum.__globals__['os'].environ }}",
        "{{ ('{0.__class__.__init__.__globals__}').format(raise_exception) }}",
        "{{ messages | map(attribute='__class__') | list }}{{ messages[0]['x'].y }}",
        "{{ messages.append(1) }}",
        "{{ messages[0].update(role='x') }}",
        "{{ messages[0].clear() }}",
        "{% set x = namespace() %}{% set x.__class__ = 1 %}{{ x.__init__.__globals__ }}",
        "{% include '/etc/hostname' %}",
        "{% import 'os' as os %}{{ os.listdir('/') }}",
        "{{ undefined_function() }}",
        "{{ messages[0].content.missing.member }}",
        "{% for i in range(100000) %}{% for j in range(100000) %}{% endfor %}{% endfor %}",
        "{% for i in range(10 ** 12) %}{% endfor %}",
        "{% macro again() %}{{ again() }}{% endmacro %}{{ again() }}",
        "{% for i in range(1000) %}{% for j in range(900) %}{{ 'x' * 99 }}{% endfor %}{% endfor %}",
        "{% set s = 'x' * 5000 %}{% for a in s %}{% for b in s %}{% endfor %}{% endfor %}",
        "{% set s = 'x' * 5000 %}{% for a in s %}{% for b in s if false %}{% endfor %}{% endfor %}",
        "{% set s = 'x' * 5000 %}{% for a in s recursive %}{{ loop(s) }}{% endfor %}",
        "{% macro m(n) %}{% if n %}{{ m(n - 1) }}{{ m(n - 1) }}{% endif %}{% endmacro %}"
        "{{ m(99) }}",
        "{% block b %}{{ self.b() }}{{ self.b() }}{% endblock %}",
        "{% macro m() %}{{ caller() }}{{ caller() }}{% endmacro %}"
        "{% macro n(i) %}{% if i %}{% call m() %}{{ n(i - 1) }}{% endcall %}{% endif %}"
        "{% endmacro %}"
        "{{ n(99) }}",
        "{{ 2 ** (2 ** 32) }}",
        "{{ (-2) ** (2 ** 32) }}",
        "{% set n = namespace(x=3) %}{% for i in range(64) %}{% set n.x = n.x * n.x %}{% endfor %}",
        "{{ 'x' * 10 ** 12 }}",
        "{{ 10 ** 12 * [1] }}",
        "{{ range(10 ** 12) | sum }}",
        "{{ lipsum(10 ** 12) }}",
        "{{ 1 / 0 }}",
        "{{ 'x' | no_such_filter }}",
        "{% if %}",
        "{% for x in messages %}",
        "{{ " + "(" * 5000,
        "{{ " + "-" * 100_000 + "1 }}",
    ],
)
def test_hostile_templates_end_in_a_typed_error(source: str) -> None:
    with pytest.raises(BundleInvalidError) as caught:
        ChatTemplate(source, TOKENS, "chat_template.jinja").render([USER])
    assert caught.value.file == "chat_template.jinja"
    assert "chat template" in caught.value.cause
    assert caught.value.remedy


HUGE = "3000000000"
LONG = [
    "{{ 'a'.ljust(HUGE) }}",
    "{{ 'a'.rjust(HUGE) }}",
    "{{ 'a'.center(HUGE) }}",
    "{{ 'a'.zfill(HUGE) }}",
    "{{ 'a'.encode().ljust(HUGE) }}",
    "{{ ('a' | safe).ljust(HUGE) }}",
    "{{ '\t'.expandtabs(HUGE) }}",
    "{{ (1).to_bytes(HUGE, 'big') }}",
    "{{ x.replace('x', x) }}",
    "{{ x.replace('', x) }}",
    "{{ x.replace('x', x, 100000) }}",
    "{{ x.encode().replace('x'.encode(), x.encode()) }}",
    "{{ x.translate({120: x}) }}",
    "{{ x.join(x) }}",
    "{{ ''.join([x] * 1000) }}",
    "{{ x.encode().join([x.encode()] * 1000) }}",
    "{{ '{:HUGE}'.format('a') }}",
    "{{ '{:.{}f}'.format(1.5, HUGE) }}",
    "{{ '{:{}}'.format('a', HUGE) }}",
    "{{ '{a:HUGE}'.format_map({'a': 1}) }}",
    "{{ ('{0}' * 1000).format(x) }}",
    "{{ ('{:HUGE}' | safe).format('a') }}",
    "{{ '%HUGEd' % 1 }}",
    "{{ '%.HUGEf' % 1 }}",
    "{{ '%*d' % (HUGE, 1) }}",
    "{{ ('%(a)s' * 1000) % {'a': x} }}",
    "{{ '%HUGEd' | format(1) }}",
    "{{ 'a' | center(HUGE) }}",
    "{{ 'a' | indent(HUGE, true) }}",
    "{{ ('a\n' * 1000) | indent(x) }}",
    "{{ x | replace('x', x) }}",
    "{{ x | join(x) }}",
    "{{ ([x] * 1000) | join }}",
    "{{ ['a'] | map('center', HUGE) | list }}",
    "{{ x | wordwrap(1, true, x) }}",
    "{{ [1] | batch(HUGE, 1) | list }}",
    "{{ [1] | slice(HUGE) | list }}",
    "{{ [1] | tojson(indent=HUGE) }}",
    "{{ 1 | round(HUGE, 'ceil') }}",
    "{{ ([[1]] * 1000) | sum(start=[]) }}",
    "{{ strftime_now(x) }}",
    "{% set n = namespace(x='x') %}{% for i in range(64) %}{% set n.x = n.x + n.x %}{% endfor %}",
    "{% set n = namespace(x=[1]) %}{% for i in range(64) %}{% set n.x = n.x + n.x %}{% endfor %}",
    "{% set n = namespace(x='x') %}{% for i in range(64) %}{% set n.x = n.x ~ n.x %}{% endfor %}",
    "{% macro m(x) %}{{ x }}{{ x }}{% endmacro %}"
    "{% set n = namespace(x='x') %}{% for i in range(64) %}{% set n.x = m(n.x) %}{% endfor %}",
    "{% set n = namespace(x='x') %}{% for i in range(64) %}"
    "{% set y %}{{ n.x }}{{ n.x }}{% endset %}{% set n.x = y %}{% endfor %}",
    *(
        "{% set n = namespace(x=[1]) %}{% for i in range(64) %}{% set n.x = [n.x, n.x] %}"
        "{% endfor %}" + end
        for end in (
            "{{ n.x }}",
            "{{ n }}",
            "{{ {'a': n.x}.items() }}",
            "{{ n.x ~ '' }}",
            "{{ n.x | string }}",
            "{{ n.x | tojson }}",
            "{{ n.x | upper }}",
            "{{ n.x | join }}",
            "{{ '%s' % n.x }}",
            "{{ '%s' % [n.x] }}",
            "{{ '{}'.format(n.x) }}",
            "{{ '{!r}'.format(n.x) }}",
        )
    ),
]


@pytest.mark.parametrize("source", LONG)
def test_what_makes_long_texts_is_refused_before_it_does(source: str) -> None:
    """As MemoryError at the latest; the causes here are those of our own checks."""
    source = "{% set x = 'x' * 100000 %}" + source.replace("HUGE", HUGE)
    with pytest.raises(BundleInvalidError, match=r"huge|steps|adds lists") as caught:
        ChatTemplate(source, TOKENS, "chat_template.jinja").render([USER])
    assert caught.value.file == "chat_template.jinja"


ALL_DAY = "{% for i in range(90000) %}"
DEEP = (
    "{% set d = namespace(x=1) %}{% for i in range(64) %}{% set d.x = (d.x, d.x) %}{% endfor %}"
    "{% set n = namespace(x=[]) %}{% for i in range(64) %}{% set n.x = [n.x, n.x] %}{% endfor %}"
    "{% set m = namespace(x=[]) %}{% for i in range(64) %}{% set m.x = [m.x, m.x] %}{% endfor %}"
)
IN_ALL = [
    ALL_DAY + "{% set keep.x = keep.x + [x * 40] %}{% endfor %}",
    ALL_DAY + "{% set keep.x = [keep.x, x[1:]] %}{% endfor %}",
    ALL_DAY + "{% set keep.x = [keep.x, x.upper()] %}{% endfor %}",
    ALL_DAY + "{% set keep.x = [keep.x, x | upper] %}{% endfor %}",
    ALL_DAY + "{% set keep.x = [keep.x, x ~ i] %}{% endfor %}",
    ALL_DAY + "{% set keep.x = [keep.x, " + "1, " * 9999 + "] %}{% endfor %}",
    ALL_DAY + "{% set keep.x = {1: keep.x, " + "i: 1, " * 999 + "} %}{% endfor %}",
    ALL_DAY + "{% set keep.x = [keep.x, big - i, big // 2, -big] %}{% endfor %}",
    ALL_DAY + "{% set y %}{{ x }}{% endset %}{% set keep.x = [keep.x, y] %}{% endfor %}",
    "{% macro m() %}" + ALL_DAY + "{{ [x] }}{% endfor %}{% endmacro %}{{ m() }}",
    "{% macro m() %}" + ALL_DAY + "{{ '' }}" * 999 + "{% endfor %}{% endmacro %}{{ m() }}",
    "{% autoescape true %}{% macro m() %}" + ALL_DAY + "{{ x }}{% endfor %}{% endmacro %}{{ m() }}"
    "{% endautoescape %}",
    ALL_DAY + "{{ (x.split('x')) | length }}{% endfor %}",
    ALL_DAY + "{% if x == y %}{% endif %}{% endfor %}",
    ALL_DAY + "{% if 'ab' in x %}{% endif %}{% endfor %}",
    ALL_DAY + "{{ x.find('ab') }}{% endfor %}",
    ALL_DAY + "{{ x | batch(1) | max }}{% endfor %}",
    DEEP + "{{ n.x == m.x }}",
    DEEP + "{{ [n.x, m.x] | max }}",
    DEEP + "{{ n.x is eq(m.x) }}",
    DEEP + "{{ n.x is upper }}",
    DEEP + "{{ {d.x: 1} }}",
    "{{ (x * 40).split() }}",
    "{{ (x * 40) | list }}",
    "{{ [1] * 2000000 }}",
    "{{ a }}" * 40_000,
]


@pytest.mark.parametrize("source", IN_ALL, ids=range(len(IN_ALL)))
def test_what_a_template_takes_in_all_is_bounded(source: str) -> None:
    begin = "{% set x = 'x' * 100000 %}{% set y = x + '' %}{% set big = 2 ** 30000 %}"
    begin += "{% set keep = namespace(x=[]) %}"
    with pytest.raises(BundleInvalidError, match=r"huge|steps|64 MiB|runs for|longer than 256 KiB"):
        ChatTemplate(begin + source, TOKENS, "chat_template.jinja").render([USER])


def test_its_time_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(budget, "MOST_SECONDS", 0)
    with pytest.raises(BundleInvalidError, match="it runs for more than 0 s"):
        ChatTemplate("{{ [2, 1] | sort }}", TOKENS, "t").render([USER])


def test_long_messages_are_the_users_error() -> None:
    with pytest.raises(UsageError, match="messages are longer than 4194304 characters") as caught:
        ChatTemplate(CHAT_ML, TOKENS, "t").render([{**USER, "content": "x" * 5_000_000}])
    assert caught.value.setting == "prompt"


def test_what_makes_texts_of_usual_length_does_as_in_jinja() -> None:
    source = "|".join(
        [
            "{{ 'a'.ljust(3, '.') }}",
            "{{ 'a'.center(3) }}",
            "{{ '7'.zfill(3) }}",
            "{{ '\\t.'.expandtabs(2) }}",
            "{{ 'abab'.replace('a', 'cc') }}",
            "{{ 'abab'.replace('a', '', 1) }}",
            "{{ 'ab'.replace('', '-') }}",
            "{{ ', '.join(['a', 'b']) }}{{ ''.join(messages | map(attribute='role')) }}",
            "{{ '{:>4}{!r}{a}'.format(1, 'x', a=[2]) }}{{ '{b:03}'.format_map({'b': 5}) }}",
            "{{ '%s-%03d %%' % ('a', 5) }}",
            "{{ '%(a)s' % {'a': 1} }}",
            "{{ '%s' | format('z') }}",
            "{{ 7 % 4 }}",
            "{{ 'a\\nb' | indent(2) }}{{ 'a b' | wordwrap(1) }}{{ 'a' | center(5) }}",
            "{{ [1, 2] | join(', ') }}{{ messages | join('-', attribute='role') }}",
            "{{ [1, 2, 3] | batch(2, 0) | list }}{{ [1, 2, 3] | slice(2) | list }}",
            "{{ 2.345 | round(1, 'floor') }}{{ [1, 2] | sum }}{{ [1] + [2] }}{{ 'a' ~ 1 ~ none }}",
            "{{ ' a ' | trim | upper | e }}",
            "{{ '<' | e }}",
            "{{ 'a' | replace('a', 'b') }}",
            "{{ {'a': 1} }}",
            "{% autoescape true %}{{ messages[0].role ~ '<' ~ ('<' | safe) }}",
            "{{ ['<'] | join('>') }}{% endautoescape %}",
            "{% macro m(x) %}({{ x }}){% endmacro %}{{ m(1) }}",
            "{% set y %}{{ m(2) }}{% endset %}{{ y }}",
        ]
    )
    expected = jinja2.Environment(optimized=False).from_string(source)
    ours = ChatTemplate(source, {}, "t").render([USER, USER])
    assert ours == expected.render(messages=[USER, USER])


def test_steps_are_counted_for_each_rendering(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(budget, "MOST_STEPS", 10)
    template = ChatTemplate("{% for m in messages if m %}{{ 2 ** 3 * 'x' }}{% endfor %}", {}, "t")
    for _ in range(3):
        assert template.render([USER] * 5) == "x" * 40
    with pytest.raises(BundleInvalidError, match="more than 10 steps"):
        template.render([USER] * 6)
    # A name that the template sets changes no count.
    again = "{% set range = 1 %}{% set turn = 1 %}{% for m in messages %}{% endfor %}"
    with pytest.raises(BundleInvalidError, match="more than 10 steps"):
        ChatTemplate(again, {}, "t").render([USER] * 11)


def test_what_jinja_says_becomes_one_sentence() -> None:
    with pytest.raises(BundleInvalidError, match=r"is unsafe\. Give the prompt"):
        ChatTemplate("{{ messages.append(1) }}", TOKENS, "t").render([USER])


def test_internals_look_undefined() -> None:
    source = "{{ raise_exception.__globals__ }}{{ messages.__class__ }}{{ range.__self__ }}"
    assert ChatTemplate(source, TOKENS, "t").render([USER]) == ""


def test_a_template_changes_nothing() -> None:
    message: Mapping[str, Any] = {**USER, "list": [1]}
    source = "{% set messages = [] %}{% set x = messages %}{{ bos_token }}"
    template = ChatTemplate(source, TOKENS, "t")
    assert template.render([message]) == template.render([message]) == "<s>"
    assert message == {**USER, "list": [1]}
    assert json.dumps(message)


def test_it_sees_plain_data_only(tmp_path: Path) -> None:
    class Text(str):
        def write(self) -> str:
            (tmp_path / "written").touch()
            return "written"

    source = "{{ messages[0].content.write() }}"
    with pytest.raises(BundleInvalidError, match="fails"):
        ChatTemplate(source, TOKENS, "t").render([{"role": "user", "content": Text("x")}])
    assert not (tmp_path / "written").exists()
