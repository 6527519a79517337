//! A tokenizer.json and the encodings it gives.

use serde_json::Value as Json;
use tokenizers::{AddedToken, PostProcessor, PostProcessorWrapper, Tokenizer as Inner};

pub struct Encoding {
    pub ids: Vec<u32>,
    /// Byte ranges in the text; empty at 0 for tokens the post-processor adds.
    pub begins: Vec<u32>,
    pub ends: Vec<u32>,
    /// 1 for special tokens, added or found in the text.
    pub special: Vec<u8>,
}

/// Immutable, so it is used from several threads at once.
pub struct Tokenizer {
    /// Without its post-processor, which trims whitespace off the offsets of byte-level tokens.
    inner: Inner,
    post_processor: Option<PostProcessorWrapper>,
    special: Vec<bool>,
    vocab_size: usize,
}

impl Tokenizer {
    /// `added_tokens` is a list in tokenizer.json's form. Those the file does not have are added,
    /// as transformers does with the special tokens of tokenizer_config.json.
    pub fn load(tokenizer_json: &[u8], added_tokens: &Json) -> Result<Self, String> {
        let mut inner = Inner::from_bytes(tokenizer_json).map_err(|e| e.to_string())?;
        inner.with_truncation(None).map_err(|e| e.to_string())?;
        inner.with_padding(None);
        let known: Vec<String> =
            inner.get_added_tokens_decoder().into_values().map(|token| token.content).collect();
        let wanted: Vec<AddedToken> = serde_json::from_value(added_tokens.clone())
            .map_err(|e| format!("added tokens: {e}"))?;
        let missing: Vec<AddedToken> =
            wanted.into_iter().filter(|token| !known.contains(&token.content)).collect();
        inner.add_tokens(missing).map_err(|e| e.to_string())?;
        let post_processor = inner.get_post_processor().cloned();
        inner.with_post_processor(None::<PostProcessorWrapper>);
        let vocab_size = inner.get_vocab(true).into_values().max().map_or(0, |id| id as usize + 1);
        let mut special = vec![false; vocab_size];
        for (id, token) in inner.get_added_tokens_decoder() {
            special[id as usize] = token.special;
        }
        Ok(Tokenizer { inner, post_processor, special, vocab_size })
    }

    pub fn encode(&self, text: &str, add_special_tokens: bool) -> Result<Encoding, String> {
        let plain = self.inner.encode(text, false).map_err(|e| e.to_string())?;
        let offsets = plain.get_offsets().to_vec();
        let (ids, offsets) = match &self.post_processor {
            Some(post_processor) if add_special_tokens => {
                let processed =
                    post_processor.process(plain, None, true).map_err(|e| e.to_string())?;
                let mut own = offsets.into_iter();
                let mut spread = Vec::with_capacity(processed.len());
                for (added, offset) in
                    processed.get_special_tokens_mask().iter().zip(processed.get_offsets())
                {
                    spread.push(if *added != 0 { (0, 0) } else { own.next().unwrap_or(*offset) });
                }
                (processed.get_ids().to_vec(), spread)
            }
            _ => (plain.get_ids().to_vec(), offsets),
        };
        let (begins, ends) =
            offsets.into_iter().map(|(begin, end)| (begin as u32, end as u32)).unzip();
        let special =
            ids.iter().map(|id| u8::from(self.special.get(*id as usize) == Some(&true))).collect();
        Ok(Encoding { ids, begins, ends, special })
    }

    pub fn decode(&self, ids: &[u32], skip_special_tokens: bool) -> Result<String, String> {
        self.inner.decode(ids, skip_special_tokens).map_err(|e| e.to_string())
    }

    /// One more than the largest id.
    pub fn vocab_size(&self) -> usize {
        self.vocab_size
    }

    pub fn token_to_id(&self, token: &str) -> Option<u32> {
        self.inner.token_to_id(token)
    }

    pub fn id_to_token(&self, id: u32) -> Option<String> {
        self.inner.id_to_token(id)
    }
}
