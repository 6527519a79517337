//! Tokenizers and chat templates as Hugging Face's Python libraries have them, behind a C face
//! (`ffi`, anneal_text.h).
//!
//! The C++ side is common/text/tokenizer.h and common/text/chat_template.h. Handles are immutable
//! once made, so they are used from several threads at once. Everything that comes in is hostile:
//! templates run on fuel and within an output limit, panics end as errors.

mod ffi;
mod filters;
mod generation;
mod json;
mod methods;
mod python;
mod rewrite;
mod shadow;
mod strftime;
mod tags;
mod template;
mod tokenizer;

#[cfg(test)]
mod template_test;
