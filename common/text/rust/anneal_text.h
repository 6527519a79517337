#pragma once
// The C face of the Rust library in this folder, for common/text alone. Functions that can fail
// return false and fill `error`. What comes back in an out parameter is freed by the matching
// *_free. Handles are immutable: any number of threads may use one.

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct AnnealTokenizer AnnealTokenizer;
typedef struct AnnealChatTemplate AnnealChatTemplate;

// Borrowed for the call. UTF-8 unless said otherwise.
typedef struct {
  const char* data;
  size_t size;
} AnnealText;

typedef struct {
  char* data;
  size_t size, capacity;
} AnnealBytes;
void anneal_text_bytes_free(AnnealBytes* bytes);

typedef struct {
  uint32_t* data;
  size_t size, capacity;
} AnnealIds;

// One entry a token: id, byte range in the text, and whether it is a special token.
typedef struct {
  AnnealIds ids, begins, ends;
  struct {
    uint8_t* data;
    size_t size, capacity;
  } special;
} AnnealEncoding;
void anneal_text_encoding_free(AnnealEncoding* encoding);

// added_tokens: JSON list in tokenizer.json's form.
bool anneal_text_tokenizer_load(AnnealText tokenizer_json, AnnealText added_tokens,
                                AnnealTokenizer** out, AnnealBytes* error);
void anneal_text_tokenizer_free(AnnealTokenizer* tokenizer);
bool anneal_text_encode(const AnnealTokenizer* tokenizer, AnnealText text, bool add_special_tokens,
                        AnnealEncoding* out, AnnealBytes* error);
bool anneal_text_decode(const AnnealTokenizer* tokenizer, const uint32_t* ids, size_t count,
                        bool skip_special_tokens, AnnealBytes* out, AnnealBytes* error);
size_t anneal_text_vocab_size(const AnnealTokenizer* tokenizer);
int64_t anneal_text_token_to_id(const AnnealTokenizer* tokenizer,
                                AnnealText token);  // -1: no such token
bool anneal_text_id_to_token(const AnnealTokenizer* tokenizer, uint32_t id, AnnealBytes* out);

typedef struct {
  AnnealBytes text;
  struct {
    struct {
      size_t begin, end;
    } * data;
    size_t size, capacity;
  } generation_spans;
} AnnealRendered;
void anneal_text_rendered_free(AnnealRendered* rendered);

typedef struct {
  struct {
    struct {
      size_t begin, end;
      uint32_t message, field;
    } * data;
    size_t size, capacity;
  } ranges;
  struct {
    AnnealBytes* data;
    size_t size, capacity;
  } fields;
} AnnealAttribution;
void anneal_text_attribution_free(AnnealAttribution* attribution);

// globals: JSON object of further names that the template sees.
bool anneal_text_template_compile(AnnealText source, AnnealText globals, int64_t now_unix_seconds,
                                  uint64_t fuel, size_t output_bytes, AnnealChatTemplate** out,
                                  AnnealBytes* error);
void anneal_text_template_free(AnnealChatTemplate* chat_template);
bool anneal_text_template_has_generation_marks(const AnnealChatTemplate* chat_template);
// messages: JSON list. tools: JSON list, or empty for null.
bool anneal_text_render(const AnnealChatTemplate* chat_template, AnnealText messages,
                        AnnealText tools, bool add_generation_prompt, AnnealRendered* out,
                        AnnealBytes* error);
// rendered: what anneal_text_render gave for the same messages and tools, without generation
// prompt.
bool anneal_text_attribute(const AnnealChatTemplate* chat_template, AnnealText messages,
                           AnnealText tools, AnnealText rendered, AnnealAttribution* out,
                           AnnealBytes* error);

#ifdef __cplusplus
}
#endif
