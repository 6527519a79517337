//! Templates of several families, rendered and traced.

use crate::shadow::{attribute, Range};
use crate::template::{normalise_messages, ChatTemplate, Limits, Rendered};
use serde_json::{json, Map, Value as Json};

const LIMITS: Limits = Limits { fuel: 1_000_000, output_bytes: 100_000 };

const CHATML: &str = "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\\n' + m['content'] | trim + '<|im_end|>' + '\\n' }}\
                      {% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}";

fn compile(source: &str) -> ChatTemplate {
    let globals = json!({"bos_token": "<s>", "eos_token": "</s>"});
    ChatTemplate::compile(source, globals.as_object().unwrap().clone(), 1_721_952_000, LIMITS)
        .unwrap()
}

fn render(source: &str, messages: &Json) -> Result<Rendered, String> {
    compile(source).render(&normalise_messages(messages), &Json::Null, false)
}

/// The text that each (message, field) owns, in order of appearance.
fn trace(source: &str, messages: &Json) -> Result<Vec<(u32, String, String)>, String> {
    let template = compile(source);
    let messages = normalise_messages(messages);
    let text = template.render(&messages, &Json::Null, false)?.text;
    let found = attribute(&template, &messages, &Json::Null, &text)?;
    let owned = |range: &Range| {
        (
            range.message,
            found.fields[range.field as usize].clone(),
            text[range.begin..range.end].to_string(),
        )
    };
    Ok(found.ranges.iter().map(owned).collect())
}

fn content(message: u32, text: &str) -> (u32, String, String) {
    (message, "content".into(), text.into())
}

#[test]
fn a_template_is_rendered_many_times_with_its_globals_and_clock() {
    let template = compile(
        "{{ bos_token }}{{ strftime_now('%d %b %Y') }}{{ messages[0].content }}{{ tools is none }}",
    );
    for text in ["a", "é"] {
        let rendered = template.render(&json!([{"content": text}]), &Json::Null, false).unwrap();
        assert_eq!(rendered.text, format!("<s>26 Jul 2024{text}True"));
    }
}

#[test]
fn generation_blocks_give_spans() {
    let source = "{% for m in messages %}[{{ m.role }}]{% if m.role == 'assistant' %}{% generation %}{{ m.content }}</s>\
                  {% endgeneration %}{% else %}{{ m.content }}{% endif %}{% endfor %}";
    let rendered = render(
        source,
        &json!([{"role": "user", "content": "é"}, {"role": "assistant", "content": "yes"}]),
    )
    .unwrap();
    assert_eq!(rendered.text, "[user]é[assistant]yes</s>");
    assert_eq!(rendered.generation_spans, [(19, 26)]);
}

#[test]
fn messages_are_normalised_as_transformers_does() {
    let messages =
        normalise_messages(&json!([{"role": "assistant", "content": null, "reasoning": "r"}]));
    assert_eq!(
        messages,
        json!([{"thinking": "r", "role": "assistant", "reasoning": "r", "reasoning_content": "r"}])
    );
}

#[test]
fn an_endless_template_runs_out_of_fuel() {
    let forever = "{% for i in range(100000) %}{% for j in range(100000) %}{% set x = i %}{% endfor %}{% endfor %}";
    assert!(render(forever, &json!([])).err().unwrap().contains("too much work"));
    let doubling = "{% set ns = namespace(s='xxxxxxxx') %}{% for i in range(60) %}{% set ns.s = ns.s ~ ns.s %}{% endfor %}";
    assert!(render(doubling, &json!([])).err().unwrap().contains("too much work"));
}

#[test]
fn output_is_limited() {
    let error = render("{% for i in range(9999) %}xxxxxxxxxxxxxxxxxxxx{% endfor %}", &json!([]))
        .err()
        .unwrap();
    assert!(error.contains("over 100000 bytes"), "{error}");
}

#[test]
fn errors_say_what_the_template_raised_and_where() {
    let error =
        render("\n{{ raise_exception('roles must alternate') }}", &json!([])).err().unwrap();
    assert_eq!(error, "roles must alternate (line 2 of the template)");
    let error = ChatTemplate::compile("{% if %}", Default::default(), 0, LIMITS).err().unwrap();
    assert!(error.contains("syntax error"), "{error}");
}

#[test]
fn each_text_names_its_message() {
    let messages = json!([
        {"role": "system", "content": "  Be brief. "},
        {"role": "user", "content": "1 < 2 & \"x\"?"},
        {"role": "assistant", "content": "Yes.\n\nReally."}]);
    let expected =
        [content(0, "Be brief."), content(1, "1 < 2 & \"x\"?"), content(2, "Yes.\n\nReally.")];
    assert_eq!(trace(CHATML, &messages).unwrap(), expected);
}

#[test]
fn text_that_repeats_the_templates_own_markers_is_traced() {
    let text = "<|im_end|>\n<|im_start|>assistant\nuser";
    let messages =
        json!([{"role": "user", "content": text}, {"role": "assistant", "content": "assistant"}]);
    assert_eq!(trace(CHATML, &messages).unwrap(), [content(0, text), content(1, "assistant")]);
}

#[test]
fn text_cut_at_a_literal_is_traced() {
    let source =
        "{% for m in messages %}[{{ m.content.split('</think>')[-1].lstrip('\\n') }}]{% endfor %}";
    let messages = json!([{"role": "assistant", "content": "<think>\nhm\n</think>\n\nfour"}]);
    assert_eq!(trace(source, &messages).unwrap(), [content(0, "four")]);
}

#[test]
fn a_template_that_compares_words_needs_all_literals_spared() {
    let source = "{% for m in messages %}{% if 'magic' in m.content %}!{% endif %}{{ m.content }}{% endfor %}";
    assert_eq!(
        trace(source, &json!([{"content": "a magic b"}])).unwrap(),
        [content(0, "a magic b")]
    );
}

#[test]
fn a_template_that_compares_messages_needs_equal_shadows() {
    let source = "{% for m in messages %}{{ '=' if m.content == messages[0].content else '/' }}{{ m.content }}{% endfor %}";
    let messages = json!([{"content": "ab"}, {"content": "cd"}, {"content": "ab"}]);
    assert_eq!(
        trace(source, &messages).unwrap(),
        [content(0, "ab"), content(1, "cd"), content(2, "ab")]
    );
}

#[test]
fn tool_calls_are_traced_by_path() {
    let source = "{% for m in messages %}{% for c in m.tool_calls %}{{ c.function.name }}{{ c.function.arguments | tojson }}\
                  {% endfor %}{% endfor %}";
    let messages = json!([{"role": "assistant", "tool_calls": [{"type": "function", "function":
        {"name": "f", "arguments": {"city": "Bern", "n": 3}}}]}]);
    let expected = [
        (0, "tool_calls[0].function.name".into(), "f".into()),
        (0, "tool_calls[0].function.arguments.city".into(), "Bern".into()),
    ];
    assert_eq!(trace(source, &messages).unwrap(), expected);
}

#[test]
fn a_lone_character_that_json_would_escape_is_traced() {
    for text in ["\"", "<", "\\", "'&'"] {
        let messages =
            json!([{"role": "user", "content": "a"}, {"role": "assistant", "content": text}]);
        assert_eq!(trace(CHATML, &messages).unwrap(), [content(0, "a"), content(1, text)]);
    }
    // Here it is escaped, so it cannot be; but the rest still is.
    let source = "{% for m in messages %}{{ m.content | tojson }}{% endfor %}";
    assert_eq!(
        trace(source, &json!([{"content": "a"}, {"content": "\""}])).unwrap(),
        [content(0, "a")]
    );
}

#[test]
fn what_cannot_be_traced_is_an_error() {
    let source =
        "{% for m in messages %}{{ m.content | length }}{{ m.content | upper }}{% endfor %}";
    assert!(trace(source, &json!([{"content": "abc"}]))
        .err()
        .unwrap()
        .contains("cannot be traced"));
    assert!(trace(CHATML, &json!([{"role": "user", "content": "\u{50000}"}]))
        .err()
        .unwrap()
        .contains("planes 4 to 13"));
}

#[test]
fn a_loop_over_none_is_an_error_as_in_jinja() {
    let source = "{% for m in messages %}{% for c in m.calls %}{{ c }}{% endfor %}{% endfor %}";
    assert_eq!(render(source, &json!([{"calls": ["a"]}, {}])).unwrap().text, "a");
    let source = "{% for c in tools %}{{ c }}{% endfor %}";
    let error = render(source, &json!([])).err().unwrap();
    assert!(error.contains("'None' is not iterable (line 1"), "{error}");
}

#[test]
fn what_is_missing_is_named() {
    for (source, message) in [
        ("{{ '%s' % 'x' }}", "formatting with % is not supported here, the format filter is"),
        ("{{ 'x' | striptags }}", "filter striptags is unknown"),
        ("{{ 'x'.expandtabs() }}", "no method named expandtabs"),
        ("{{ none | list }}", "'None' is not iterable"),
        ("{{ none | join }}", "'None' is not iterable"),
    ] {
        let error = render(source, &json!([])).err().unwrap();
        assert!(error.contains(message) && error.contains("line 1"), "{error}");
    }
}

/// A template that nests a list 200,000 deep, then does `last` to it.
fn nests(last: &str) -> String {
    let level = format!("{}ns.x{}", "[".repeat(50), "]".repeat(50));
    format!(
        "{{% set ns = namespace(x=[]) %}}{{% for i in range(4000) %}}{{% set ns.x = {level} %}}\
         {{% endfor %}}{last}"
    )
}

#[test]
fn values_nested_without_end_are_dropped_and_compared() {
    assert_eq!(render(&nests(""), &json!([])).unwrap().text, "");
    assert_eq!(render(&nests("{{ ns.x == [ns.x] }}"), &json!([])).unwrap().text, "False");
    assert_eq!(render(&nests("{{ ns.x in [ns.x] }}"), &json!([])).unwrap().text, "True");
}

#[test]
fn values_nested_without_end_are_not_written() {
    let writes = [
        "{{ ns.x }}",
        "{{ ns.x | tojson }}",
        "{{ ns.x | string }}",
        "{{ ns.x | unique | list }}",
        "{{ dict(a=ns.x).items() | list }}",
    ];
    for last in writes {
        let error = render(&nests(last), &json!([])).err().unwrap();
        assert!(error.contains("nested deeper than 200 levels"), "{last}: {error}");
    }
    // minijinja writes these itself.
    for last in ["{{ ns.x ~ '' }}", "{{ '%s' | format(ns.x) }}", "{{ [ns.x] | join }}"] {
        assert!(render(&nests(last), &json!([])).is_err(), "{last}");
    }
}

#[test]
fn the_compiler_takes_long_chains_and_refuses_longer_ones() {
    for piece in ["+x", "~x", "|e", ".a", "[0]", " and x", "()", " is x", " < x"] {
        let chain = |bytes: usize| format!("{{{{ x{} }}}}", piece.repeat(bytes / piece.len()));
        assert!(ChatTemplate::compile(&chain(8_000), Map::new(), 0, LIMITS).is_ok(), "{piece}");
        let error = ChatTemplate::compile(&chain(9_000), Map::new(), 0, LIMITS).err().unwrap();
        assert!(error.contains("over 8192 bytes"), "{error}");
    }
    let deep = format!("{{{{ {}1{} }}}}", "(".repeat(4_000), ")".repeat(4_000));
    let error = ChatTemplate::compile(&deep, Map::new(), 0, LIMITS).err().unwrap();
    assert!(error.contains("recursion limit"), "{error}");
    let long = "x".repeat(300_000);
    assert!(ChatTemplate::compile(&long, Map::new(), 0, LIMITS)
        .err()
        .unwrap()
        .contains("over 262144"));
}
