//! What a template's source is changed to before minijinja compiles it, so that it behaves as it
//! does in transformers. Line numbers stay.

use crate::generation;
use crate::tags::{split_before_word, split_word, tags, Tag};
use minijinja::{Error, ErrorKind, Value};
use std::fmt::Write as _;

/// Name of the filter `iterable` in rewritten templates.
pub const ITERABLE_NAME: &str = "__iterable";

/// What a loop goes over. Jinja raises an error where that is none; minijinja would take it for an
/// empty list, and the row would lose its text without a word. A string becomes its characters, so
/// that `loop.last` knows their number.
pub fn iterable(value: &Value) -> Result<Value, Error> {
    if value.is_none() {
        return Err(Error::new(ErrorKind::InvalidOperation, "'None' is not iterable"));
    }
    Ok(match value.as_str() {
        Some(text) => text.chars().map(Value::from).collect(),
        None => value.clone(),
    })
}

/// `for x in y if z` to `for x in (y)|__iterable if z`.
fn write_for(out: &mut String, tag: &Tag) -> Option<()> {
    let (_, rest) = split_word(tag.inner);
    let (targets, rest) = split_before_word(rest, &["in"]);
    let (expression, rest) = split_before_word(rest.strip_prefix("in")?, &["if", "recursive"]);
    let (left, right) = (tag.left, tag.right);
    let _ = write!(out, "{{%{left} for{targets}in ({expression})|{ITERABLE_NAME} {rest}{right}%}}");
    Some(())
}

/// The source to compile, and whether it holds generation blocks.
pub fn rewrite(source: &str) -> Result<(String, bool), String> {
    let (mut out, mut done, mut has_marks) = (String::with_capacity(source.len() + 256), 0, false);
    for tag in tags(source)? {
        out.push_str(&source[done..tag.begin]);
        done = tag.begin;
        match split_word(tag.inner) {
            ("generation", rest) if rest.trim().is_empty() => {
                generation::open_tag(&mut out, &tag);
                has_marks = true;
                done = tag.end;
            }
            ("endgeneration", rest) if rest.trim().is_empty() => {
                generation::close_tag(&mut out, &tag);
                done = tag.end;
            }
            ("autoescape", _) => return Err("{% autoescape %} is not supported".into()),
            ("for", _) if write_for(&mut out, &tag).is_some() => done = tag.end,
            _ => {}
        }
    }
    out.push_str(&source[done..]);
    Ok((out, has_marks))
}

#[cfg(test)]
mod tests {
    fn rewrite(source: &str) -> (String, bool) {
        super::rewrite(source).unwrap()
    }

    #[test]
    fn generation_tags_become_marks() {
        let (text, found) =
            rewrite("{% if x %}{%- generation -%}a{% endgeneration %}{% endif %}{% generations %}");
        assert!(found);
        assert!(
            text.starts_with("{% if x %}{%- with %}{{ __generation_open }}{% set __mark = 1 -%}a")
        );
        assert!(text.ends_with("{% endif %}{% generations %}"));
        let literal = "{{ '{% generation %}' }}{# {% generation %} #}";
        assert_eq!(rewrite(literal), (literal.to_string(), false));
    }

    #[test]
    fn loops_ask_what_they_go_over() {
        assert_eq!(
            rewrite("{%- for a, b in c(d if e) if f -%}").0,
            "{%- for a, b in ( c(d if e) )|__iterable if f -%}"
        );
        assert_eq!(
            rewrite("{% for x in y recursive %}").0,
            "{% for x in ( y )|__iterable recursive %}"
        );
        assert_eq!(rewrite("{% for x %}").0, "{% for x %}");
    }

    #[test]
    fn what_is_not_supported_is_named() {
        let error = super::rewrite("{% autoescape true %}").unwrap_err();
        assert_eq!(error, "{% autoescape %} is not supported");
    }
}
