//! The C face; anneal_text.h is its header and says who frees what.

use crate::shadow;
use crate::template::{normalise_messages, ChatTemplate, Limits};
use crate::tokenizer::Tokenizer;
use serde_json::Value as Json;
use std::mem::ManuallyDrop;
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::slice;

/// A Rust vector handed out; `release` takes it back.
#[repr(C)]
pub struct Array<T> {
    data: *mut T,
    size: usize,
    capacity: usize,
}

impl<T> Array<T> {
    fn new(items: Vec<T>) -> Self {
        let mut items = ManuallyDrop::new(items);
        Array { data: items.as_mut_ptr(), size: items.len(), capacity: items.capacity() }
    }
    unsafe fn release(&mut self) {
        if !self.data.is_null() {
            drop(Vec::from_raw_parts(self.data, self.size, self.capacity));
            self.data = std::ptr::null_mut();
        }
    }
}

#[repr(C)]
pub struct Text {
    data: *const u8,
    size: usize,
}

impl Text {
    unsafe fn bytes(&self) -> &[u8] {
        if self.size == 0 {
            &[]
        } else {
            slice::from_raw_parts(self.data, self.size)
        }
    }
    unsafe fn str(&self) -> Result<&str, String> {
        std::str::from_utf8(self.bytes()).map_err(|e| format!("invalid UTF-8: {e}"))
    }
    /// An empty text is null.
    unsafe fn json(&self) -> Result<Json, String> {
        if self.size == 0 {
            Ok(Json::Null)
        } else {
            serde_json::from_slice(self.bytes()).map_err(|e| e.to_string())
        }
    }
}

#[repr(C)]
pub struct EncodingOut {
    ids: Array<u32>,
    begins: Array<u32>,
    ends: Array<u32>,
    special: Array<u8>,
}

#[repr(C)]
pub struct SpanOut {
    begin: usize,
    end: usize,
}

#[repr(C)]
pub struct RangeOut {
    begin: usize,
    end: usize,
    message: u32,
    field: u32,
}

#[repr(C)]
pub struct RenderedOut {
    text: Array<u8>,
    generation_spans: Array<SpanOut>,
}

#[repr(C)]
pub struct AttributionOut {
    ranges: Array<RangeOut>,
    fields: Array<Array<u8>>,
}

/// Runs `body`; an error or a panic becomes its text in `error` and `false`.
unsafe fn guard(error: *mut Array<u8>, body: impl FnOnce() -> Result<(), String>) -> bool {
    let message = match catch_unwind(AssertUnwindSafe(body)) {
        Ok(Ok(())) => return true,
        Ok(Err(message)) => message,
        Err(panic) => {
            let text = panic
                .downcast_ref::<String>()
                .map(String::as_str)
                .or_else(|| panic.downcast_ref::<&str>().copied());
            format!("internal error: {}", text.unwrap_or("panic"))
        }
    };
    error.write(Array::new(message.into_bytes()));
    false
}

#[no_mangle]
pub unsafe extern "C" fn anneal_text_bytes_free(bytes: *mut Array<u8>) {
    (*bytes).release();
}

#[no_mangle]
pub unsafe extern "C" fn anneal_text_tokenizer_load(
    tokenizer_json: Text,
    added_tokens: Text,
    out: *mut *mut Tokenizer,
    error: *mut Array<u8>,
) -> bool {
    guard(error, || {
        let tokenizer = Tokenizer::load(tokenizer_json.bytes(), &added_tokens.json()?)?;
        out.write(Box::into_raw(Box::new(tokenizer)));
        Ok(())
    })
}

#[no_mangle]
pub unsafe extern "C" fn anneal_text_tokenizer_free(tokenizer: *mut Tokenizer) {
    drop(Box::from_raw(tokenizer));
}

#[no_mangle]
pub unsafe extern "C" fn anneal_text_encode(
    tokenizer: *const Tokenizer,
    text: Text,
    add_special_tokens: bool,
    out: *mut EncodingOut,
    error: *mut Array<u8>,
) -> bool {
    guard(error, || {
        let encoding = (*tokenizer).encode(text.str()?, add_special_tokens)?;
        out.write(EncodingOut {
            ids: Array::new(encoding.ids),
            begins: Array::new(encoding.begins),
            ends: Array::new(encoding.ends),
            special: Array::new(encoding.special),
        });
        Ok(())
    })
}

#[no_mangle]
pub unsafe extern "C" fn anneal_text_encoding_free(encoding: *mut EncodingOut) {
    let encoding = &mut *encoding;
    encoding.ids.release();
    encoding.begins.release();
    encoding.ends.release();
    encoding.special.release();
}

#[no_mangle]
pub unsafe extern "C" fn anneal_text_decode(
    tokenizer: *const Tokenizer,
    ids: *const u32,
    count: usize,
    skip_special_tokens: bool,
    out: *mut Array<u8>,
    error: *mut Array<u8>,
) -> bool {
    guard(error, || {
        let ids = if count == 0 { &[] } else { slice::from_raw_parts(ids, count) };
        out.write(Array::new((*tokenizer).decode(ids, skip_special_tokens)?.into_bytes()));
        Ok(())
    })
}

#[no_mangle]
pub unsafe extern "C" fn anneal_text_vocab_size(tokenizer: *const Tokenizer) -> usize {
    (*tokenizer).vocab_size()
}

#[no_mangle]
pub unsafe extern "C" fn anneal_text_token_to_id(tokenizer: *const Tokenizer, token: Text) -> i64 {
    token.str().ok().and_then(|token| (*tokenizer).token_to_id(token)).map_or(-1, i64::from)
}

#[no_mangle]
pub unsafe extern "C" fn anneal_text_id_to_token(
    tokenizer: *const Tokenizer,
    id: u32,
    out: *mut Array<u8>,
) -> bool {
    match (*tokenizer).id_to_token(id) {
        Some(token) => {
            out.write(Array::new(token.into_bytes()));
            true
        }
        None => false,
    }
}

#[no_mangle]
pub unsafe extern "C" fn anneal_text_template_compile(
    source: Text,
    globals: Text,
    now_unix_seconds: i64,
    fuel: u64,
    output_bytes: usize,
    out: *mut *mut ChatTemplate,
    error: *mut Array<u8>,
) -> bool {
    guard(error, || {
        let Json::Object(globals) = globals.json()? else {
            return Err("the template's globals are not an object".into());
        };
        let template = ChatTemplate::compile(
            source.str()?,
            globals,
            now_unix_seconds,
            Limits { fuel, output_bytes },
        )?;
        out.write(Box::into_raw(Box::new(template)));
        Ok(())
    })
}

#[no_mangle]
pub unsafe extern "C" fn anneal_text_template_free(template: *mut ChatTemplate) {
    drop(Box::from_raw(template));
}

#[no_mangle]
pub unsafe extern "C" fn anneal_text_template_has_generation_marks(
    template: *const ChatTemplate,
) -> bool {
    (*template).has_generation_marks()
}

#[no_mangle]
pub unsafe extern "C" fn anneal_text_render(
    template: *const ChatTemplate,
    messages: Text,
    tools: Text,
    add_generation_prompt: bool,
    out: *mut RenderedOut,
    error: *mut Array<u8>,
) -> bool {
    guard(error, || {
        let messages = normalise_messages(&messages.json()?);
        let rendered = (*template).render(&messages, &tools.json()?, add_generation_prompt)?;
        let spans = rendered
            .generation_spans
            .into_iter()
            .map(|(begin, end)| SpanOut { begin, end })
            .collect();
        out.write(RenderedOut {
            text: Array::new(rendered.text.into_bytes()),
            generation_spans: Array::new(spans),
        });
        Ok(())
    })
}

#[no_mangle]
pub unsafe extern "C" fn anneal_text_rendered_free(rendered: *mut RenderedOut) {
    let rendered = &mut *rendered;
    rendered.text.release();
    rendered.generation_spans.release();
}

#[no_mangle]
pub unsafe extern "C" fn anneal_text_attribute(
    template: *const ChatTemplate,
    messages: Text,
    tools: Text,
    rendered: Text,
    out: *mut AttributionOut,
    error: *mut Array<u8>,
) -> bool {
    guard(error, || {
        let messages = normalise_messages(&messages.json()?);
        let found = shadow::attribute(&*template, &messages, &tools.json()?, rendered.str()?)?;
        let range = |r: &shadow::Range| RangeOut {
            begin: r.begin,
            end: r.end,
            message: r.message,
            field: r.field,
        };
        out.write(AttributionOut {
            ranges: Array::new(found.ranges.iter().map(range).collect()),
            fields: Array::new(
                found.fields.into_iter().map(|field| Array::new(field.into_bytes())).collect(),
            ),
        });
        Ok(())
    })
}

#[no_mangle]
pub unsafe extern "C" fn anneal_text_attribution_free(attribution: *mut AttributionOut) {
    let attribution = &mut *attribution;
    attribution.ranges.release();
    for i in 0..attribution.fields.size {
        (*attribution.fields.data.add(i)).release();
    }
    attribution.fields.release();
}
