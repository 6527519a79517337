//! Python's string methods that minijinja-contrib's pycompat lacks.

use minijinja::{Error, State, Value};

fn pad(
    text: &str,
    args: &[Value],
    zeros: bool,
    place: fn(usize) -> (usize, usize),
) -> Option<Value> {
    let width = usize::try_from(args.first()?.clone()).ok()?.min(10_000);
    let fill = match args.get(1) {
        Some(fill) => fill.as_str()?.chars().next()?,
        None if zeros => '0',
        None => ' ',
    };
    let missing = width.saturating_sub(text.chars().count());
    let (left, right) = place(missing);
    let repeat = |count: usize| fill.to_string().repeat(count);
    if let (true, Some(digits)) = (zeros, text.strip_prefix(['-', '+'])) {
        return Some(Value::from(format!("{}{}{digits}", &text[..1], repeat(left))));
    }
    Some(Value::from(format!("{}{text}{}", repeat(left), repeat(right))))
}

fn list(items: &[&str]) -> Value {
    items.iter().map(|item| Value::from(*item)).collect()
}

fn partition(text: &str, separator: &str) -> Value {
    match text.split_once(separator) {
        Some((before, after)) => list(&[before, separator, after]),
        None => list(&[text, "", ""]),
    }
}

fn rpartition(text: &str, separator: &str) -> Value {
    match text.rsplit_once(separator) {
        Some((before, after)) => list(&[before, separator, after]),
        None => list(&["", "", text]),
    }
}

fn rsplit(text: &str, separator: &str, args: &[Value]) -> Value {
    let limit = args.get(1).and_then(|count| usize::try_from(count.clone()).ok());
    let mut parts: Vec<&str> = match limit {
        Some(limit) => text.rsplitn(limit.saturating_add(1), separator).collect(),
        None => text.rsplit(separator).collect(),
    };
    parts.reverse();
    list(&parts)
}

fn string_method(text: &str, method: &str, args: &[Value]) -> Option<Value> {
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
        ("rsplit", Some(separator)) => Some(rsplit(text, separator, args)),
        ("zfill", _) => pad(text, args, true, |missing| (missing, 0)),
        ("ljust", _) => pad(text, args, false, |missing| (0, missing)),
        ("rjust", _) => pad(text, args, false, |missing| (missing, 0)),
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
        assert_eq!(call("a,b", "rpartition", &[Value::from(";")]), "['', '', 'a,b']");
        assert_eq!(
            call("think</think>x", "partition", &[Value::from("</think>")]),
            "['think', '</think>', 'x']"
        );
        assert_eq!(call("ab", "removesuffix", &[Value::from("b")]), "a");
    }
}
