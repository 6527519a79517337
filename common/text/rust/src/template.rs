//! A chat template, compiled once and rendered as transformers'
//! `apply_chat_template(tokenize=False)` renders it.

use crate::{filters, generation, json, methods, python, rewrite, strftime};
use minijinja::value::{Serde, ValueKind};
use minijinja::{AutoEscape, Environment, Error, ErrorKind, Value};
use serde_json::{Map, Value as Json};
use std::fmt::Write as _;
use std::io;
use std::thread;

const NAME: &str = "chat_template";

/// What one rendering may use up. Fuel is minijinja's: one unit an instruction and one for each 64
/// bytes produced, intermediate text included, so it bounds memory as well as time.
#[derive(Clone, Copy)]
pub struct Limits {
    pub fuel: u64,
    pub output_bytes: usize,
}

pub struct Rendered {
    pub text: String,
    /// Byte ranges inside generation blocks; empty without such blocks.
    pub generation_spans: Vec<(usize, usize)>,
}

/// A template can nest values as deep as its fuel lasts (`{% set x = [x] %}` again and again), and
/// what is nested is dropped and compared by recursion. So a rendering starts with an amount of fuel
/// that fits any thread's stack, which is ample for all but the longest conversations; one that needs
/// more begins again on a stack that grows with the fuel. The kernel gives memory only to pages that
/// are touched.
const QUICK_FUEL: u64 = 10_000;
const STACK_BYTES_PER_FUEL: u64 = 256;
/// The compiler recurses too; `rewrite` bounds how deep.
const COMPILE_STACK_BYTES: usize = 32 << 20;
/// The largest templates of published models have a tenth of this.
const MAX_SOURCE_BYTES: usize = 256 << 10;

/// Runs `body` on a stack of that size.
fn on_stack<T: Send>(
    bytes: usize,
    body: impl FnOnce() -> Result<T, String> + Send,
) -> Result<T, String> {
    let builder = thread::Builder::new().name("template".into()).stack_size(bytes);
    thread::scope(|scope| match builder.spawn_scoped(scope, body) {
        Ok(running) => running.join().unwrap_or_else(|_| Err("internal error: panic".into())),
        Err(error) => Err(format!("no memory for a stack of {bytes} bytes: {error}")),
    })
}

/// Immutable, so it is rendered from several threads at once.
pub struct ChatTemplate {
    /// The same but for their fuel.
    quick: Environment<'static>,
    patient: Environment<'static>,
    source: String,
    has_generation_marks: bool,
    globals: Map<String, Json>,
    output_bytes: usize,
}

/// Transformers passes a message's reasoning under each name that templates read.
const REASONING_FIELDS: [&str; 3] = ["reasoning_content", "thinking", "reasoning"];

/// Messages as transformers hands them to the template: keys that are null are dropped, reasoning
/// gets its aliases.
pub fn normalise_messages(messages: &Json) -> Json {
    let normalise = |message: &Json| -> Json {
        let Json::Object(fields) = message else { return message.clone() };
        let fields: Map<String, Json> = fields
            .iter()
            .filter(|(_, value)| !value.is_null())
            .map(|(key, value)| (key.clone(), value.clone()))
            .collect();
        let Some(reasoning) = REASONING_FIELDS.iter().find_map(|name| fields.get(*name)).cloned()
        else {
            return Json::Object(fields);
        };
        let mut aliased = Map::new();
        aliased.insert("thinking".into(), reasoning.clone());
        aliased.extend(fields);
        aliased.insert("reasoning_content".into(), reasoning);
        Json::Object(aliased)
    };
    match messages {
        Json::Array(list) => Json::Array(list.iter().map(normalise).collect()),
        other => other.clone(),
    }
}

/// Whether it, or what it stems from, is an end of fuel.
fn is_out_of_fuel(error: &Error) -> bool {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(found) = cause {
        if found.downcast_ref::<Error>().is_some_and(|e| e.kind() == ErrorKind::OutOfFuel) {
            return true;
        }
        cause = found.source();
    }
    false
}

/// The error with its causes, on one line.
fn describe(error: Error) -> String {
    let mut text = match (error.kind(), error.detail()) {
        // raise_exception: the template's own words are the message.
        (ErrorKind::InvalidOperation, Some(detail)) => detail.to_string(),
        (ErrorKind::OutOfFuel, _) => "the template does too much work".into(),
        (kind, Some(detail)) => format!("{kind}: {detail}"),
        (kind, None) => kind.to_string(),
    };
    if text.starts_with("tried to use % operator on unsupported types string") {
        text.push_str("; formatting with % is not supported here, the format filter is");
    }
    if let Some(line) = error.line() {
        let _ = write!(text, " (line {line} of the template)");
    }
    let mut source = std::error::Error::source(&error);
    while let Some(cause) = source {
        let _ = write!(text, ": {cause}");
        source = cause.source();
    }
    text
}

fn environment(now_unix_seconds: i64) -> Environment<'static> {
    let mut environment = Environment::new();
    let syntax =
        minijinja::syntax::SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
    environment.set_syntax(syntax.expect("the default delimiters are valid"));
    environment.set_auto_escape_callback(|_| AutoEscape::None);
    environment.set_formatter(python::format);
    environment.set_unknown_method_callback(methods::unknown_method);
    environment.remove_global("debug"); // shows everything, at any depth
    filters::install(&mut environment);
    environment.add_filter("tojson", json::filter);
    environment.add_filter("string", python::string_filter);
    environment.add_filter(rewrite::ITERABLE_NAME, rewrite::iterable);
    // Jinja's tests follow Python's protocols: a string is iterable and a sequence, a bool is a
    // number.
    environment.add_test("iterable", |value: &Value| {
        use ValueKind::*;
        matches!(value.kind(), String | Seq | Map | Iterable | Undefined)
    });
    environment.add_test("sequence", |value: &Value| {
        use ValueKind::*;
        matches!(value.kind(), String | Seq | Map | Undefined)
    });
    environment.add_test("number", |value: &Value| {
        matches!(value.kind(), ValueKind::Number | ValueKind::Bool)
    });
    environment.add_function("raise_exception", |message: String| -> Result<Value, Error> {
        Err(Error::new(ErrorKind::InvalidOperation, message))
    });
    environment.add_function("strftime_now", move |pattern: &str| {
        strftime::format(pattern, now_unix_seconds)
    });
    environment.add_global(generation::OPEN_NAME, generation::OPEN.to_string());
    environment.add_global(generation::CLOSE_NAME, generation::CLOSE.to_string());
    environment
}

/// Takes bytes up to a limit.
struct Bounded {
    bytes: Vec<u8>,
    limit: usize,
}

impl io::Write for Bounded {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.bytes.len() + bytes.len() > self.limit {
            return Err(io::Error::other(format!(
                "the rendered text is over {} bytes",
                self.limit
            )));
        }
        self.bytes.extend_from_slice(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl ChatTemplate {
    /// `globals` are names the template sees besides the call's own (special tokens);
    /// `now_unix_seconds` is what `strftime_now` shows, in UTC.
    pub fn compile(
        source: &str,
        globals: Map<String, Json>,
        now_unix_seconds: i64,
        limits: Limits,
    ) -> Result<Self, String> {
        if source.len() > MAX_SOURCE_BYTES {
            return Err(format!("the template is over {MAX_SOURCE_BYTES} bytes"));
        }
        let (rewritten, has_generation_marks) = rewrite::rewrite(source)?;
        let patient = on_stack(COMPILE_STACK_BYTES, || {
            let mut environment = environment(now_unix_seconds);
            environment.set_fuel(Some(limits.fuel));
            environment.add_template_owned(NAME, rewritten).map_err(describe)?;
            Ok(environment)
        })?;
        let mut quick = patient.clone();
        quick.set_fuel(Some(limits.fuel.min(QUICK_FUEL)));
        Ok(ChatTemplate {
            quick,
            patient,
            source: source.to_string(),
            has_generation_marks,
            globals,
            output_bytes: limits.output_bytes,
        })
    }

    pub fn source(&self) -> &str {
        &self.source
    }

    pub fn has_generation_marks(&self) -> bool {
        self.has_generation_marks
    }

    /// The text with its marks.
    fn render_raw(
        &self,
        environment: &Environment,
        context: &Map<String, Json>,
    ) -> Result<String, Error> {
        let template = environment.get_template(NAME)?;
        let mut out = Bounded { bytes: vec![], limit: self.output_bytes };
        template.render_captured_to(Value::from(Serde(context)), &mut out)?;
        String::from_utf8(out.bytes)
            .map_err(|error| Error::new(ErrorKind::InvalidOperation, error.to_string()))
    }

    /// `messages` must be normalised. `tools` is null or a list of JSON schemas.
    pub fn render(
        &self,
        messages: &Json,
        tools: &Json,
        add_generation_prompt: bool,
    ) -> Result<Rendered, String> {
        let mut context = self.globals.clone();
        context.insert("messages".into(), messages.clone());
        context.insert("tools".into(), tools.clone());
        // Null, not absent: templates test `documents is not none`.
        context.insert("documents".into(), Json::Null);
        context.insert("add_generation_prompt".into(), Json::Bool(add_generation_prompt));
        let raw = match self.render_raw(&self.quick, &context) {
            Err(error) if is_out_of_fuel(&error) => {
                let fuel = self.patient.fuel().unwrap_or(0);
                let stack = (fuel * STACK_BYTES_PER_FUEL) as usize;
                on_stack(stack, || self.render_raw(&self.patient, &context).map_err(describe))?
            }
            raw => raw.map_err(describe)?,
        };
        if !self.has_generation_marks {
            return Ok(Rendered { text: raw, generation_spans: vec![] });
        }
        let (text, generation_spans) = generation::take_marks(&raw)?;
        Ok(Rendered { text, generation_spans })
    }
}

/// Whether a string in `value` holds one of `chars`.
pub fn holds_any(value: &Json, unwanted: &dyn Fn(char) -> bool) -> bool {
    match value {
        Json::String(text) => text.contains(unwanted),
        Json::Array(list) => list.iter().any(|item| holds_any(item, unwanted)),
        Json::Object(fields) => {
            fields.iter().any(|(key, item)| key.contains(unwanted) || holds_any(item, unwanted))
        }
        _ => false,
    }
}
