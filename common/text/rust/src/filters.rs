//! Jinja's filters that minijinja lacks or that take none for an empty list. What is in neither is an
//! error that names the filter.

use crate::methods::string_method;
use crate::rewrite::iterable;
use minijinja::value::{Kwargs, StringInput};
use minijinja::{filters, Environment, Error, State, Value};

fn list(state: &State, value: &Value) -> Result<Value, Error> {
    filters::list(state, iterable(value)?)
}

fn join(
    state: &mut State,
    value: &Value,
    joiner: Option<StringInput<'_>>,
    attribute: Option<&str>,
    options: Kwargs,
) -> Result<Value, Error> {
    filters::join(state, &iterable(value)?, joiner, attribute, options)
}

fn center(text: &str, width: Option<usize>) -> Value {
    let width = Value::from(width.unwrap_or(80));
    string_method(text, "center", &[width]).unwrap_or_else(|| Value::from(text))
}

/// Words as Jinja counts them: stretches of letters, digits and underscores.
fn wordcount(text: &str) -> usize {
    let is_letter = |c: char| c.is_alphanumeric() || c == '_';
    text.split(|c| !is_letter(c)).filter(|word| !word.is_empty()).count()
}

/// Makes `environment`'s filters Jinja's.
pub fn install(environment: &mut Environment) {
    // Jinja has none of these, so that no template which runs in transformers uses them; but for
    // `pprint`, whose indentation costs the square of a value's depth.
    for name in ["bool", "chain", "lines", "pprint", "split", "zip"] {
        environment.remove_filter(name);
    }
    environment.add_filter("center", center);
    environment.add_filter("join", join);
    environment.add_filter("list", list);
    environment.add_filter("wordcount", wordcount);
}
