// Copyright the moe-mobile authors.
// SPDX-License-Identifier: Apache-2.0

use super::*;

fn chat(source: &str, messages: &str) -> Result<String, Failure> {
    let config = r#"{"bos_token": "<s>", "eos_token": {"content": "</s>"}}"#;
    let files = BTreeMap::from([
        (TEMPLATE.to_owned(), source.as_bytes().to_vec()),
        (CONFIG.to_owned(), config.as_bytes().to_vec()),
    ]);
    let messages = Json::parse(messages, None).unwrap();
    ChatTemplate::load(&files)?.render(&messages, &Json::Null, true)
}

const USER: &str =
    r#"[{"role": "user", "content": "Hi", "more": {"items": [1, 2.0, null], "b": true}}]"#;

/// Each with what Jinja writes.
const SAME: &[(&str, &str)] = &[
    ("{{ bos_token }}{% for m in messages %}<{{ m.role }}>{{ m['content'] }}{% endfor %}{{ eos_token }}", "<s><user>Hi</s>"),
    ("{{ true }} {{ none }} {{ 1.0 }} {{ 1e100 }} {{ 7 // -2 }} {{ 7 % -2 }} {{ 7 / 2 }}", "True None 1.0 1e+100 -4 -1 3.5"),
    ("{{ 'a' ~ true ~ none ~ 1.5 ~ [1, 'x'] ~ {'a': none} }}", "aTrueNone1.5[1, 'x']{'a': None}"),
    ("{{ messages[0].more }}", "{'items': [1, 2.0, None], 'b': True}"),
    ("{{ messages[0].more | tojson }}", r#"{"items": [1, 2.0, null], "b": true}"#),
    ("{{ messages[0].more | tojson(indent=2) }}", "{\n  \"items\": [\n    1,\n    2.0,\n    null\n  ],\n  \"b\": true\n}"),
    ("{% for k, v in messages[0].more.items() %}{{ k }}={{ v }};{% endfor %}", "items=[1, 2.0, None];b=True;"),
    ("{{ messages[0].more['items'] | length }}{{ messages[0].get('x', 3) }}", "33"),
    ("{% set ns = namespace(x=1) %}{% for i in range(3) %}{% set ns.x = ns.x + i %}{% endfor %}{{ ns.x }}", "4"),
    ("{% for i in range(3) %}{{ x is defined }}{% set x = i %}{% endfor %}", "FalseFalseFalse"),
    ("{% macro m(a, b=2) %}{{ a + b }}{{ 'x' * a }}{% endmacro %}{{ m(1) }}{{ m(2, b=3) }}", "3x5xx"),
    ("{{ 'a,b,c'.split(',')[-1] }}{{ ' x '.strip() }}{{ 'abc'[::-1] }}{{ 'abc'[1:] }}", "cxcbabc"),
    ("{{ 1 == true }}{{ 1 in [true] }}{{ 'a' in {'a': 1} }}{{ [1] == [1.0] }}", "TrueTrueTrueTrue"),
    ("{{ messages | map(attribute='role') | join('-') }}{{ [1, 2] | map('string') | list }}", "user['1', '2']"),
    ("{{ messages | selectattr('role', 'equalto', 'user') | list | length }}", "1"),
    ("{% generation %}x{% endgeneration %}{%- generation -%} y {%- endgeneration -%}", "xy"),
    ("{% if not messages[0].missing and messages[0].missing is not defined %}ok{% endif %}", "ok"),
    ("{{ \"it's\" }}{{ [\"it's\", 'a\"b', '\\n', 'é', '\u{200b}'] }}", "it's[\"it's\", 'a\"b', '\\n', 'é', '\\u200b']"),
    ("a\r\n{% if true %}\r\n  b\r\n{% endif %}\r\nc\n", "a\n  b\nc"),
    ("{% if [] | map('upper') %}always{% endif %}{{ range(2) | list }}{{ range(5)[1] }}", "always[0, 1]1"),
    ("{{ messages | map(attribute='role') | first }}{{ [2, 1] | reverse | list }}", "user[1, 2]"),
    ("{% for x in 'ab' %}{{ loop.last }}{{ loop.length }}{% endfor %}", "False2True2"),
    ("{% for x in (messages if 1 else []) if x.role %}{{ loop.length }}{% endfor %}", "1"),
    ("{% for x in [[1, [2]], 3] -%} {{ x }} {%- endfor %}", "[1, [2]]3"),
    ("{% for x in messages if x.role == 'user' %}{{ loop.last }}{% else %}none{% endfor %}", "True"),
    ("{% for i in range(9) %}{% if i == 1 %}{% continue %}{% endif %}{% if i > 3 %}{% break %}{% endif %}{{ i }}{% endfor %}", "023"),
    ("{{ '<' | e }}{{ '<' | safe }}{{ 'a b' | title }}{{ 'aB' | capitalize }}", "&lt;<A BAb"),
    ("{{ (2.5) | round }}{{ '3.7' | int }}{{ 'x' | int(5) }}{{ 3 | float }}", "2.0353.0"),
    ("{{ messages[0].more.b and 'yes' or 'no' }}{{ 'x' if false }}", "yes"),
];

#[test]
fn templates_write_what_they_do_in_jinja() {
    for (source, expected) in SAME {
        assert_eq!(chat(source, USER).as_deref(), Ok(*expected), "{source}");
    }
}

/// What is not done here, or by nobody.
const REFUSED: &[&str] = &[
    "{{ range(3) }}",
    "{{ [1] | map('string') }}",
    "{{ [1] | map('string') | length }}",
    "{% set x = [1] | map('string') %}{{ x | list }}{{ x | list }}",
    "{{ 1 < 2 < 3 }}",
    "{{ '%s' % 1 }}",
    "{{ messages.append(1) }}",
    "{{ messages[0].update(a=1) }}",
    "{{ 'a'.encode() }}",
    "{{ 1 + 'a' }}",
    "{{ missing + 'a' }}",
    "{{ missing.x }}",
    "{{ none + 'a' }}",
    "{{ messages[0].content.missing.member }}",
    "{{ undefined_function() }}",
    "{{ 'x' | no_such_filter }}",
    "{% include 'a' %}",
    "{% import 'os' as os %}",
    "{% block b %}{% endblock %}",
    "{% extends 'a' %}",
    "{% if %}",
    "{% for x in messages %}",
    "{{ 1 / 0 }}",
    "{{ [1] | tojson(indent=3000000000) }}",
    "{% set x = 'a' | safe %}{{ x }}",
    "{{ 2 ** 4294967296 }}",
    "{{ 'x' * 10 ** 12 }}",
    "{{ 10 ** 12 * [1] }}",
    "{% autoescape true %}{{ 1 }}{% endautoescape %}",
    "{{ messages[0].content.format() }}",
    "{% for a in 'abc' %}{{ loop.changed(a) }}{% endfor %}",
    "{{ loop.cycle() }}",
    "{{ (1, 2)[0].x.y }}",
];

#[test]
fn what_cannot_be_done_the_same_way_is_refused() {
    for source in REFUSED {
        let told = chat(source, USER).expect_err(source);
        assert_eq!(
            (told.file.as_str(), told.kind),
            (TEMPLATE, crate::failure::Kind::Invalid),
            "{source}"
        );
        assert!(
            told.cause.starts_with("the chat template "),
            "{}",
            told.cause
        );
    }
}

/// None may take long, much memory, or the process.
#[test]
fn hostile_templates_end_in_an_error() {
    let day = "{% for i in range(90000) %}";
    let deep = "{% set n = namespace(x=[]) %}{% for i in range(64) %}{% set n.x = [n.x, n.x] %}{% endfor %}";
    let chain = "{% set n = namespace(x=[]) %}{% for i in range(90000) %}{% set n.x = CHAIN %}{% endfor %}{{ n.x }}";
    let mut sources = vec![
        "{% macro again() %}{{ again() }}{% endmacro %}{{ again() }}".to_owned(),
        "{% macro m(n) %}{% if n %}{{ m(n - 1) }}{{ m(n - 1) }}{% endif %}{% endmacro %}{{ m(99) }}".into(),
        "{% for i in range(100000) %}{% for j in range(100000) %}{% endfor %}{% endfor %}".into(),
        "{% set s = 'x' * 5000 %}{% for a in s %}{% for b in s %}{% endfor %}{% endfor %}".into(),
        "{% set s = 'x' * 5000 %}{% for a in s recursive %}{{ loop(s) }}{% endfor %}".into(),
        "{% set n = namespace(x='x') %}{% for i in range(64) %}{% set n.x = n.x + n.x %}{% endfor %}".into(),
        "{% set n = namespace(x='x') %}{% for i in range(64) %}{% set n.x %}{{ n.x }}{{ n.x }}{% endset %}{% endfor %}".into(),
        "{% set n = namespace(x=3) %}{% for i in range(64) %}{% set n.x = n.x * n.x %}{% endfor %}".into(),
        "{% set n = namespace() %}{% set n.x = n %}".into(),
        "{% macro m() %}{% endmacro %}{{ [m] }}".into(),
        format!("{deep}{{{{ {{n.x: 1}} }}}}"),
        format!("{deep}{{{{ {{}}.get(n.x) ~ n.x }}}}"),
        format!("{deep}{{{{ n.x in {{}} }}}}"),
        format!("{deep}{{{{ {{}}[n.x] ~ n.x }}}}"),
        format!("{deep}{{{{ [n.x, n.x] | unique }}}}"),
        format!("{deep}{{{{ [n.x, n.x[:]] | sort }}}}"),
        format!("{deep}{{{{ n.x }}}}"),
        format!("{deep}{{{{ n.x == n.x[:] }}}}"),
        format!("{deep}{{{{ n.x | tojson }}}}"),
        format!("{day}{}{{% endfor %}}", "x".repeat(200_000)),
        format!("{day}{{{{ 'x' * 4000000 }}}}{{% endfor %}}"),
        format!("{{{{ {}", "(".repeat(5000)),
        format!("{{{{ {}1 }}}}", "-".repeat(100_000)),
        format!("{{{{ 1{} }}}}", " + 1".repeat(60_000)),
        format!("{{{{ messages{} }}}}", "[0]".repeat(80_000)),
        format!("{{{{ messages{} }}}}", "|list".repeat(50_000)),
        format!("{}1{}", "{% if 1 %}".repeat(10_000), "{% endif %}".repeat(10_000)),
        format!("{{% if 1 %}}{}1{{% endif %}}", "{% elif 1 %}".repeat(20_000)),
        "{% set x %}".repeat(20_000),
        format!("{{{{ {}1{} }}}}", "[".repeat(140), "]".repeat(140)),
        "a".repeat(300_000),
    ];
    sources.extend(
        [
            "[n.x]",
            "{'a': n.x}",
            "[n.x][:]",
            "[n.x] + [1]",
            "n.x[:] + [n.x]",
            "{'a': n.x}.items()",
        ]
        .map(|step| chain.replace("CHAIN", step)),
    );
    for source in sources {
        let told = chat(&source, USER).expect_err(&source[..source.len().min(200)]);
        assert_eq!(told.file, TEMPLATE, "{source:.100}");
    }
}

#[test]
fn a_refusal_of_the_template_is_the_callers() {
    let told = chat("{{ raise_exception('Roles must ' ~ 'alternate.') }}", USER).unwrap_err();
    assert_eq!(told.setting, MESSAGES);
    assert_eq!(
        told.cause,
        "this model's chat template refuses the messages: Roles must alternate"
    );
}

#[test]
fn messages_are_checked() {
    for (messages, cause) in [
        ("[]", "no messages"),
        ("null", "no messages"),
        ("[1]", "message 0 is not an object"),
        (r#"[{"content": "x"}]"#, "message 0 has no text 'role'"),
        (r#"[{"role": "user"}]"#, "message 0 has no text 'content'"),
        (
            r#"[{"role": "user", "content": ["x"]}]"#,
            "not all parts of message 0's content are texts",
        ),
    ] {
        let told = chat("x", messages).unwrap_err();
        assert!(
            told.cause.contains(cause) && told.setting == MESSAGES,
            "{told:?}"
        );
    }
    let parts = r#"[{"role": "user", "content": [{"type": "text", "text": "x"}]}]"#;
    let told = chat("{{ messages[0].content + '' }}", parts).unwrap_err();
    assert!(
        told.cause.contains("takes no content but texts: "),
        "{told:?}"
    );
}

#[test]
fn a_bundle_may_lack_a_template() {
    let told = ChatTemplate::load(&BTreeMap::new()).err().unwrap();
    assert_eq!((told.setting.as_str(), told.file.as_str()), (MESSAGES, ""));
}
