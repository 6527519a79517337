//! Python's string methods that minijinja-contrib's pycompat lacks.

use minijinja::value::Tuple;
use minijinja::{Error, State, Value};

/// Wider ones are refused.
const MAX_WIDTH: usize = 10_000;

/// `place` says how many of the missing characters go to the left and the right of so long a text.
fn pad(
    text: &str,
    args: &[Value],
    zeros: bool,
    place: fn(usize, usize) -> (usize, usize),
) -> Option<Value> {
    let width = usize::try_from(args.first()?.clone()).ok().filter(|width| *width <= MAX_WIDTH)?;
    let fill = match args.get(1) {
        Some(fill) => fill.as_str()?.chars().next()?,
        None if zeros => '0',
        None => ' ',
    };
    let length = text.chars().count();
    let missing = width.saturating_sub(length);
    let (left, right) = place(missing, length);
    let repeat = |count: usize| fill.to_string().repeat(count);
    if let (true, Some(digits)) = (zeros, text.strip_prefix(['-', '+'])) {
        return Some(Value::from(format!("{}{}{digits}", &text[..1], repeat(left))));
    }
    Some(Value::from(format!("{}{text}{}", repeat(left), repeat(right))))
}

/// `str.center`: of an odd rest the left side gets more where the width is odd too (CPython,
/// Objects/unicodeobject.c, unicode_center).
fn center(text: &str, args: &[Value]) -> Option<Value> {
    pad(text, args, false, |missing, length| {
        let left = missing / 2 + (missing & (missing + length) & 1);
        (left, missing - left)
    })
}

fn list(items: &[&str]) -> Value {
    items.iter().map(|item| Value::from(*item)).collect()
}

fn tuple(items: [&str; 3]) -> Value {
    Value::from(Tuple::from(items.map(Value::from)))
}

fn partition(text: &str, separator: &str) -> Value {
    match text.split_once(separator) {
        Some((before, after)) => tuple([before, separator, after]),
        None => tuple([text, "", ""]),
    }
}

fn rpartition(text: &str, separator: &str) -> Value {
    match text.rsplit_once(separator) {
        Some((before, after)) => tuple([before, separator, after]),
        None => tuple(["", "", text]),
    }
}

/// `rsplit(separator, limit)`; without a separator at stretches of whitespace.
fn rsplit(text: &str, separator: Option<&str>, args: &[Value]) -> Value {
    let limit = args.get(1).and_then(|count| usize::try_from(count.clone()).ok());
    let (mut parts, mut rest) = (vec![], text);
    while limit.is_none_or(|limit| parts.len() < limit) {
        let cut = match separator {
            Some(separator) => rest.rsplit_once(separator),
            None => {
                rest = rest.trim_end();
                rest.rfind(char::is_whitespace).map(|at| {
                    let space = rest[at..].chars().next().map_or(1, char::len_utf8);
                    (&rest[..at], &rest[at + space..])
                })
            }
        };
        let Some((before, part)) = cut else { break };
        parts.push(part);
        rest = before;
    }
    if separator.is_none() {
        rest = rest.trim_end();
    }
    if separator.is_some() || !rest.is_empty() {
        parts.push(rest);
    }
    parts.reverse();
    list(&parts)
}

fn swapcase(text: &str) -> String {
    let swap = |c: char| -> String {
        if c.is_uppercase() {
            c.to_lowercase().collect()
        } else {
            c.to_uppercase().collect()
        }
    };
    text.chars().map(swap).collect()
}

/// `str.title`: a letter behind another is small, any other is a capital.
fn title(text: &str) -> String {
    let mut inside = false;
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if inside {
            out.extend(c.to_lowercase());
        } else {
            out.extend(c.to_uppercase());
        }
        inside = c.is_alphabetic();
    }
    out
}

/// `index` and `rindex`: like `find`, but what is missing is an error.
fn index_of(text: &str, found: Option<usize>) -> Option<Value> {
    found.map(|at| Value::from(text[..at].chars().count()))
}

/// The result of a method, or nothing if there is no such method or it does not take the arguments.
pub fn string_method(text: &str, method: &str, args: &[Value]) -> Option<Value> {
    let argument = args.first().and_then(|value| value.as_str()).filter(|text| !text.is_empty());
    match (method, argument) {
        ("removeprefix", Some(prefix)) => {
            Some(Value::from(text.strip_prefix(prefix).unwrap_or(text)))
        }
        ("removesuffix", Some(suffix)) => {
            Some(Value::from(text.strip_suffix(suffix).unwrap_or(text)))
        }
        ("partition", Some(separator)) => Some(partition(text, separator)),
        ("rpartition", Some(separator)) => Some(rpartition(text, separator)),
        ("rsplit", Some(separator)) => Some(rsplit(text, Some(separator), args)),
        ("rsplit", None) if args.first().is_none_or(Value::is_none) => {
            Some(rsplit(text, None, args))
        }
        ("index", Some(part)) => index_of(text, text.find(part)),
        ("rindex", Some(part)) => index_of(text, text.rfind(part)),
        ("swapcase", _) if args.is_empty() => Some(Value::from(swapcase(text))),
        ("title", _) if args.is_empty() => Some(Value::from(title(text))),
        ("zfill", _) => pad(text, args, true, |missing, _| (missing, 0)),
        ("ljust", _) => pad(text, args, false, |missing, _| (0, missing)),
        ("rjust", _) => pad(text, args, false, |missing, _| (missing, 0)),
        ("center", _) => center(text, args),
        _ => None,
    }
}

/// The environment's callback for methods that values do not have.
pub fn unknown_method(
    state: &mut State,
    value: &Value,
    method: &str,
    args: &[Value],
) -> Result<Value, Error> {
    if let Some(result) = value.as_str().and_then(|text| string_method(text, method, args)) {
        return Ok(result);
    }
    minijinja_contrib::pycompat::unknown_method_callback(state, value, method, args)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(text: &str, method: &str, args: &[Value]) -> String {
        string_method(text, method, args).map_or("none".into(), |value| value.to_string())
    }

    #[test]
    fn methods_agree_with_python() {
        assert_eq!(call("-7", "zfill", &[Value::from(4)]), "-007");
        assert_eq!(call("ab", "rjust", &[Value::from(4), Value::from(".")]), "..ab");
        assert_eq!(call("ab", "ljust", &[Value::from(1)]), "ab");
        assert_eq!(call("a,b,c", "rsplit", &[Value::from(","), Value::from(1)]), "['a,b', 'c']");
        assert_eq!(call("a,b", "rpartition", &[Value::from(";")]), "('', '', 'a,b')");
        assert_eq!(
            call("think</think>x", "partition", &[Value::from("</think>")]),
            "('think', '</think>', 'x')"
        );
        assert_eq!(call("ab", "removesuffix", &[Value::from("b")]), "a");
        assert_eq!(call(" a b  c ", "rsplit", &[]), "['a', 'b', 'c']");
        assert_eq!(
            call("a b\u{3000} c", "rsplit", &[Value::from(()), Value::from(1)]),
            "['a b', 'c']"
        );
        assert_eq!(call("ab", "center", &[Value::from(7), Value::from("*")]), "***ab**");
        assert_eq!(call("abc", "center", &[Value::from(6), Value::from("*")]), "*abc**");
        assert_eq!(call("ab", "center", &[Value::from(99_999)]), "none");
        assert_eq!(call("aéb", "index", &[Value::from("b")]), "2");
        assert_eq!(call("a", "index", &[Value::from("b")]), "none");
        assert_eq!(call("aÉ", "swapcase", &[]), "Aé");
        assert_eq!(call("it's A,b", "title", &[]), "It'S A,B");
    }
}
