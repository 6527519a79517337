//! A chat template, compiled once and rendered as transformers'
//! `apply_chat_template(tokenize=False)` renders it.

use crate::{generation, json, methods, python, strftime};
use minijinja::value::{Serde, ValueKind};
use minijinja::{AutoEscape, Environment, Error, ErrorKind, Value};
use serde_json::{Map, Value as Json};
use std::fmt::Write as _;
use std::io;

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

/// Immutable, so it is rendered from several threads at once.
pub struct ChatTemplate {
    environment: Environment<'static>,
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

/// The error with its causes, on one line.
fn describe(error: Error) -> String {
    let mut text = match (error.kind(), error.detail()) {
        // raise_exception: the template's own words are the message.
        (ErrorKind::InvalidOperation, Some(detail)) => detail.to_string(),
        (ErrorKind::OutOfFuel, _) => "the template does too much work".into(),
        (kind, Some(detail)) => format!("{kind}: {detail}"),
        (kind, None) => kind.to_string(),
    };
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

fn environment(fuel: u64, now_unix_seconds: i64) -> Environment<'static> {
    let mut environment = Environment::new();
    let syntax =
        minijinja::syntax::SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
    environment.set_syntax(syntax.expect("the default delimiters are valid"));
    environment.set_fuel(Some(fuel));
    environment.set_auto_escape_callback(|_| AutoEscape::None);
    environment.set_formatter(python::format);
    environment.set_unknown_method_callback(methods::unknown_method);
    environment.add_filter("tojson", json::filter);
    environment.add_filter("string", python::string_filter);
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
        let (rewritten, has_generation_marks) = generation::rewrite(source);
        let mut environment = environment(limits.fuel, now_unix_seconds);
        environment.add_template_owned(NAME, rewritten).map_err(describe)?;
        let source = source.to_string();
        Ok(ChatTemplate {
            environment,
            source,
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
        let template = self.environment.get_template(NAME).map_err(describe)?;
        let mut out = Bounded { bytes: vec![], limit: self.output_bytes };
        template.render_captured_to(Value::from(Serde(&context)), &mut out).map_err(describe)?;
        let raw = String::from_utf8(out.bytes).map_err(|e| e.to_string())?;
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
