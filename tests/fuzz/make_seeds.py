"""Writes valid inputs for a fuzz target to start from: make_seeds.py TARGET FOLDER."""

import json
import struct
import sys
from pathlib import Path

ROWS = [
    {"messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"},
                  {"role": "assistant", "content": "Hello", "weight": 1}]},
    {"messages": [{"role": "user", "content": "2+2?"}, {"role": "assistant", "content": "4", "weight": 0}], "tools": []},
    {"prompt": "a", "completion": "\u00e9\U0001f600"},
    {"text": "plain"},
]
TRAIN_TASK = {
    "job": "01hf7yat00abcdefghjkmnpqrs", "generation": 3, "rank": 0, "world_size": 2, "device": "cpu", "model_dir": "models/m",
    "train_data": "p/train.safetensors", "lora": {"rank": 4, "alpha": 8, "target_modules": ["all-linear"]}, "epochs": 2,
    "learning_rate": 2e-4, "schedule": "COSINE", "seed": 7,
}
LINES = [
    {"hello": {"version": 1, "kind": "train", "pid": 42, "job": TRAIN_TASK["job"], "generation": 3, "rank": 0}},
    {"start": {"storage_root": "/srv/anneal", "task": TRAIN_TASK}},
    {"rendezvous": {"address": "127.0.0.1:40000"}},
    {"status": {"phase": "train", "rank": {"step": 4, "forward_seconds": 0.25, "tokens": 1000}}},
    {"report": {"sequence": 1, "report": {"step": {"step": 1, "total_steps": 9, "train_loss": 2.5, "learning_rate": 1e-4}}}},
    {"report": {"sequence": 2, "report": {"issue": {"severity": "ERROR", "code": "ROW", "line": 17, "message": "no role"}}}},
    {"acknowledge": {"sequence": 2}},
    {"stop": {"mode": "FINISH"}},
]
CONFIG = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 64, "intermediate_size": 160,
    "num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 384,
    "max_position_embeddings": 256, "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "tie_word_embeddings": True,
    "hidden_act": "silu", "eos_token_id": [2], "torch_dtype": "bfloat16",
}
JOB = b"""\
display_name: movie-sentiment
model: models/smollm2
method: { lora: { rank: 16, alpha: 32, dropout: 0.0, target_modules: [all-linear] } }
data:
  train: [files/a, "files/b"]
  validation: { fraction: 0.05 }
  max_length: 2048
  over_length: REJECT
  train_on: assistant
training: { epochs: 1, batch_size: 16, learning_rate: 2e-4, schedule: COSINE, warmup_ratio: 0.03, seed: 7 }
resources: { slots: 2, accelerator: CPU }
"""
TEMPLATES = [
    "{% for m in messages %}{{ '<|' + m['role'] + '|>' + m.content | trim }}{{ eos_token }}{% endfor %}",
    "{%- set ns = namespace(n=0) -%}{%- for m in messages if m.role != 'system' -%}{% set ns.n = ns.n + 1 %}{{ ns.n }}"
    "{% generation %}{{ m.content.split('</think>')[-1].rsplit(' ', 1) | join('-') }}{% endgeneration %}{%- else -%}none{%- endfor -%}",
    "{% macro f(x, n=3) %}{{ [x] * n }}{% if n %}{{ f({'a': x}, n - 1) }}{% endif %}{% endmacro %}{{ f(messages[0].content) }}",
    "{% for m in messages %}{{ m | tojson(indent=2) }}{{ m.content.center(9, '*') ~ loop.index }}{% raw %}{{ }}{% endraw %}{# c #}{% endfor %}",
]


def safetensors(tensors, metadata=None, alignment=1):
    """A file of (name, dtype, shape, bytes), with holes filled as our writer fills them."""
    header, data = {}, b""
    if metadata:
        header["__metadata__"] = metadata
    for index, (name, dtype, shape, content) in enumerate(tensors):
        gap = -len(data) % alignment
        if gap:
            header[f"__padding_{index}__"] = {"dtype": "U8", "shape": [gap], "data_offsets": [len(data), len(data) + gap]}
            data += bytes(gap)
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [len(data), len(data) + len(content)]}
        data += content
    text = json.dumps(header).encode()
    text += b" " * (-(8 + len(text)) % 64)
    return struct.pack("<Q", len(text)) + text + data


def prepared_dataset():
    metadata = dict(format="anneal.prepared_dataset", version="1", content_key="ab" * 32, vocab_size="100", max_length="16",
                    examples="2", tokens="5", supervised_tokens="3", longest_example="3")
    return safetensors([
        ("example_offsets", "I64", [3], struct.pack("<3q", 0, 2, 5)),
        ("source_row", "I64", [2], struct.pack("<2q", 0, 1)),
        ("source_file", "I32", [2], struct.pack("<2i", 0, 0)),
        ("supervised_tokens", "I32", [2], struct.pack("<2i", 1, 2)),
        ("token_ids", "I32", [5], struct.pack("<5i", 7, 8, 9, 10, 11)),
        ("loss_weight", "U8", [5], bytes([0, 1, 0, 1, 1])),
    ], metadata, alignment=64)


MANIFEST = {
    "version": 1, "job": "01hf7yat00abcdefghjkmnpqrs", "generation": 3, "step": 40, "total_steps": 100,
    "numeric_fingerprint": "cpu AVX2", "files": [{"name": "ledger.jsonl", "bytes": 10, "sha256": "0" * 64}],
}

SEEDS = {
    "checkpoint_manifest": [json.dumps(MANIFEST).encode()],
    "json": [json.dumps(v).encode() for v in (CONFIG, [1, -2.5e300, None, True, "\u00e9"], {})] + [b' {"a" : [ 1 , "\\ud83d\\ude00" ] } '],
    "protocol_line": [json.dumps(line).encode() for line in LINES],
    "safetensors": [
        safetensors([]),
        safetensors([("a", "F32", [2, 2], bytes(16)), ("b", "BF16", [3], bytes(6)), ("c", "I64", [], bytes(8))], {"format": "pt"}),
        prepared_dataset(),
    ],
    "prepared_dataset": [prepared_dataset()],
    "job_file": [JOB, b'{"model": "m", "data": {"train": ["f"]}}', b"training.epochs=2", b"data.train=[a, b]"],
    "model_config": [json.dumps(CONFIG).encode()],
    "chat_template": [template.encode() + b"\0" + json.dumps(row["messages"]).encode() for template in TEMPLATES for row in ROWS[:2]],
    "row": [json.dumps(row, ensure_ascii=ascii_only).encode() for row in ROWS for ascii_only in (True, False)],
}


def main():
    target, folder = sys.argv[1], Path(sys.argv[2])
    folder.mkdir(parents=True, exist_ok=True)
    for index, seed in enumerate(SEEDS[target]):
        (folder / f"{index:02}").write_bytes(seed)


if __name__ == "__main__":
    main()
