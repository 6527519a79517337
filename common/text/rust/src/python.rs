//! Values written as Python writes them: what `{{ value }}` prints in transformers.

use minijinja::value::ValueKind;
use minijinja::{Error, ErrorKind, Output, State, Value};
use std::fmt::Write as _;

/// `repr(float)`: shortest digits that read back, exponent form outside 1e-4 .. 1e16.
pub fn float(value: f64) -> String {
    if value.is_nan() {
        return "nan".into();
    }
    if value.is_infinite() {
        return if value > 0.0 { "inf".into() } else { "-inf".into() };
    }
    if value == 0.0 {
        return if value.is_sign_negative() { "-0.0".into() } else { "0.0".into() };
    }
    let scientific = format!("{value:e}"); // d.ddde-5
    let (mantissa, exponent) = scientific.split_once('e').expect("LowerExp writes an e");
    let exponent: i32 = exponent.parse().expect("LowerExp writes a number after e");
    if (-4..16).contains(&exponent) {
        let plain = format!("{value}");
        if plain.contains('.') {
            plain
        } else {
            plain + ".0"
        }
    } else {
        format!("{mantissa}e{}{:02}", if exponent < 0 { '-' } else { '+' }, exponent.abs())
    }
}

pub fn as_float(value: &Value) -> Option<f64> {
    if value.kind() == ValueKind::Number && !value.is_integer() {
        f64::try_from(value.clone()).ok()
    } else {
        None
    }
}

fn repr_str(text: &str, out: &mut String) {
    let quote = if text.contains('\'') && !text.contains('"') { '"' } else { '\'' };
    out.push(quote);
    for c in text.chars() {
        match c {
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\\' => out.push_str("\\\\"),
            c if c == quote => {
                out.push('\\');
                out.push(c)
            }
            c if (c as u32) < 0x20 || c as u32 == 0x7f => {
                let _ = write!(out, "\\x{:02x}", c as u32);
            }
            c => out.push(c),
        }
    }
    out.push(quote);
}

/// Values may be nested this deep where they are written; Python has such a limit too.
const MAX_DEPTH: usize = 200;

/// An error for a value at `depth` that is too deep inside another to be written.
pub fn check_depth(depth: usize) -> Result<(), Error> {
    if depth <= MAX_DEPTH {
        return Ok(());
    }
    let message = format!("a value is nested deeper than {MAX_DEPTH} levels");
    Err(Error::new(ErrorKind::InvalidOperation, message))
}

/// Appends `str(value)`.
pub fn write(value: &Value, out: &mut String) -> Result<(), Error> {
    write_at(value, 0, out)
}

/// Appends `str(value)` at depth 0, and `repr(value)` inside another value.
fn write_at(value: &Value, depth: usize, out: &mut String) -> Result<(), Error> {
    check_depth(depth)?;
    let repr = depth > 0;
    match value.kind() {
        ValueKind::Undefined if !repr => {}
        ValueKind::Undefined => out.push_str("Undefined"),
        ValueKind::None => out.push_str("None"),
        ValueKind::Bool => out.push_str(if value.is_true() { "True" } else { "False" }),
        ValueKind::Number => match as_float(value) {
            Some(number) => out.push_str(&float(number)),
            None => {
                let _ = write!(out, "{value}");
            }
        },
        ValueKind::String => {
            let text = value.as_str().unwrap_or("");
            if repr {
                repr_str(text, out)
            } else {
                out.push_str(text)
            }
        }
        ValueKind::Seq => {
            let tuple = value.is_tuple();
            out.push(if tuple { '(' } else { '[' });
            let mut count = 0;
            for item in value.try_iter()? {
                if count > 0 {
                    out.push_str(", ");
                }
                write_at(&item, depth + 1, out)?;
                count += 1;
            }
            if tuple && count == 1 {
                out.push(',');
            }
            out.push(if tuple { ')' } else { ']' });
        }
        ValueKind::Map => {
            out.push('{');
            for (i, key) in value.try_iter()?.enumerate() {
                if i > 0 {
                    out.push_str(", ");
                }
                write_at(&key, depth + 1, out)?;
                out.push_str(": ");
                write_at(&value.get_item(&key)?, depth + 1, out)?;
            }
            out.push('}');
        }
        _ => {
            let _ = write!(out, "{value}");
        }
    }
    Ok(())
}

/// The environment's formatter: what an expression in the template's text becomes.
pub fn format(out: &mut Output, _state: &mut State, value: &Value) -> Result<(), Error> {
    if let Some(text) = value.as_str() {
        return out.write_str(text).map_err(Error::from);
    }
    let mut text = String::new();
    write(value, &mut text)?;
    out.write_str(&text).map_err(Error::from)
}

/// The `string` filter.
pub fn string_filter(value: &Value) -> Result<Value, Error> {
    if value.as_str().is_some() {
        return Ok(value.clone());
    }
    let mut text = String::new();
    write(value, &mut text)?;
    Ok(Value::from(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn floats_are_written_as_python_does() {
        for (value, text) in [
            (1.0, "1.0"),
            (0.1, "0.1"),
            (-0.0, "-0.0"),
            (1e16, "1e+16"),
            (123456789012345680.0, "1.2345678901234568e+17"),
            (1e15, "1000000000000000.0"),
            (0.0001, "0.0001"),
            (0.00001, "1e-05"),
            (f64::INFINITY, "inf"),
        ] {
            assert_eq!(float(value), text);
        }
    }

    #[test]
    fn containers_are_written_as_python_does() {
        let mut out = String::new();
        let value = Value::from(minijinja::value::Serde(
            serde_json::json!({"a": [1, true, null, "it's", "x\n"], "b": 2.0}),
        ));
        write(&value, &mut out).unwrap();
        assert_eq!(out, r#"{'a': [1, True, None, "it's", 'x\n'], 'b': 2.0}"#);
    }
}
