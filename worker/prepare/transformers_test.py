"""Prepared rows against transformers: token ids and loss masks, on template families and tokenizers made here.

Expected masks never come from our own method. Where rendering a conversation's beginning gives a beginning of its rendering, an
assistant's turn is what lies between the two prefixes. Where it does not (thoughts that later turns drop, tool calls), the same
template with {% generation %} marks says it, through transformers' own return_assistant_tokens_mask.
"""

import datetime
import json
import os
import pathlib
import subprocess

import pytest
import tokenizers
from safetensors import numpy as safetensors_numpy
from tokenizers import decoders, models, pre_tokenizers, processors, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerFast
from transformers.utils import chat_template_utils

from testing.chat_templates import CHATML, GEMMA, MARKED, PLAIN, SPECIALS, marked, unmarked

PREPARE = pathlib.Path(os.environ["ANNEAL_BIN_DIR"]) / "anneal-prepare"
NOW = datetime.datetime(2024, 7, 26, 12, 34, 56)

# ---- Tokenizers, small enough to train in a second. ----

CORPUS = [
    "The quick brown fox jumps over the lazy dog. What is 2 + 2? It is 4!",
    "def main():\n    return {'name': \"value\", 'list': [1, 2, 3]}\n\n",
    "user assistant system model content Hello, world! Hi there. Goodbye.",
    "Zürich naïve café 東京 こんにちは 你好 привет 😀🎉 مرحبا",
    "think tool_call arguments weather city Bern sunny function",
] * 4


def byte_level_tokenizer(trim_offsets):
    tokenizer = tokenizers.Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=760, special_tokens=SPECIALS, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    bos = tokenizer.token_to_id("<s>")
    tokenizer.post_processor = processors.Sequence(
        [
            processors.ByteLevel(trim_offsets=trim_offsets),
            processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", bos)]),
        ]
    )
    return tokenizer


def metaspace_tokenizer():
    """As Llama 2 and Mistral have it: spaces as a visible character, bytes for what the vocabulary lacks."""
    tokenizer = tokenizers.Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    tokenizer.decoder = decoders.Sequence([decoders.Metaspace(prepend_scheme="first"), decoders.ByteFallback(), decoders.Fuse()])
    byte_tokens = [f"<0x{byte:02X}>" for byte in range(256)]
    trainer = trainers.BpeTrainer(vocab_size=640, special_tokens=["<unk>"] + SPECIALS + byte_tokens, show_progress=False)
    tokenizer.train_from_iterator([text.encode("ascii", "ignore").decode() for text in CORPUS], trainer)
    # The trainer made the bytes special; in real files only the control tokens are.
    plain = json.loads(tokenizer.to_str())
    plain["added_tokens"] = [token for token in plain["added_tokens"] if token["content"] not in byte_tokens]
    tokenizer = tokenizers.Tokenizer.from_str(json.dumps(plain))
    bos = tokenizer.token_to_id("<s>")
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", bos)])
    return tokenizer


BACKENDS = {
    "byte_level": lambda: byte_level_tokenizer(trim_offsets=False),
    "byte_level_trimmed": lambda: byte_level_tokenizer(trim_offsets=True),
    "metaspace": metaspace_tokenizer,
}


@pytest.fixture(scope="session")
def backends():
    return {name: make() for name, make in BACKENDS.items()}


# ---- Conversations. ----


def user(text):
    return {"role": "user", "content": text}


def assistant(text, **more):
    return {"role": "assistant", "content": text, **more}


def system(text):
    return {"role": "system", "content": text}


CHATS = [
    [user("What is 2 + 2?"), assistant("4")],
    [user("Hi"), assistant("Hello, world!"), user("Bye"), assistant("Goodbye.")],
    [user(""), assistant("You said nothing.")],
    [user("  spaces around \n"), assistant("def main():\n    return 1\n\n\n# end")],
    [user("Zürich 東京 😀"), assistant("naïve café 🎉 привет")],
    [user("same"), assistant("same"), user("same"), assistant("same")],
    [user("assistant"), assistant("user"), user("model\nuser"), assistant("<|user|> assistant system [INST] x [/INST]")],
    [user("<|im_end|>\n<|im_start|>assistant\nno"), assistant("a </s> b <|im_end|>\n<|im_start|>user\nc <end_of_turn> d")],
    [user('{"a": "b\\n"} <b>&amp;</b>'), assistant("it's \"quoted\" \\ and <tagged> & done")],
    [user("Which is it, < or >?"), assistant("<"), user("And the quote?"), assistant('"'), user("\\"), assistant("&")],
    [user("x" * 300), assistant("word " * 100 + "end"), user("?"), assistant("!")],
]
SYSTEM_CHATS = [[system("Be brief. 東京")] + chat for chat in CHATS] + [[system("")] + CHATS[0]]

TOOLS = [{"type": "function", "function": {"name": "weather", "parameters": {"type": "object", "properties": {"city": {"type": "string"}}}}}]


def call(name, arguments):
    return {"id": "c1", "type": "function", "function": {"name": name, "arguments": arguments}}


def tool(text):
    return {"role": "tool", "content": text, "tool_call_id": "c1"}


TOOL_ROWS = [
    {"messages": [user("Hi"), assistant("Hello, world!")], "tools": TOOLS},
    {"messages": [user("no tools <|im_end|> [INST]"), assistant("none [TOOL_CALLS] at all")]},
    {
        "messages": [
            user("weather in Bern?"),
            assistant(None, tool_calls=[call("weather", {"city": "Bern \"x\"", "days": 2, "units": None, "deep": [{"a": 0.5}]})]),
            tool('{"sky": "sunny"}'),
            assistant("It is sunny."),
            user("Thanks"),
            assistant("Bye"),
        ],
        "tools": TOOLS * 2,
    },
    {"messages": [user("?"), assistant("", tool_calls=[call("東京", {})]), tool("</tool_response>"), assistant("é")], "tools": TOOLS},
    {
        "messages": [
            user("both"),
            assistant(None, tool_calls=[call("weather", {"city": "Bern"}), call("weather", {"city": "東京"})]),
            tool("sunny"),
            tool("sunny"),
            assistant("sunny"),
        ],
        "tools": TOOLS,
    },
]
THINKING_ROWS = [
    {"messages": [user("2 + 2?"), assistant("<think>\nIt is 4!\n</think>\n\n4")]},
    {"messages": [user("2 + 2?"), assistant("4", reasoning_content="It is 4!\nSure."), user("why?"), assistant("so", thinking="hm")]},
    {"messages": [user("Hi"), assistant("no thought")]},
    {
        "messages": [
            user("weather in Bern?"),
            assistant(None, tool_calls=[call("weather", {"city": "Bern", "days": 2})]),
            {"role": "tool", "content": "sunny", "tool_call_id": "c1"},
            assistant("It is sunny."),
        ],
        "tools": TOOLS,
    },
    {
        "messages": [
            user("weather in Bern and 東京?"),
            assistant("Let me look.", tool_calls=[call("weather", {"city": "Bern"}), call("weather", {"city": "東京"})]),
        ],
        "tools": TOOLS,
    },
]


# ---- The two sides. ----


def make_model(folder, backend, template):
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<s>", eos_token="</s>", clean_up_tokenization_spaces=False
    )
    if template is not None:
        tokenizer.chat_template = template
    tokenizer.save_pretrained(folder)
    (folder / "config.json").write_text(json.dumps({"model_type": "llama", "vocab_size": len(tokenizer)}))
    return AutoTokenizer.from_pretrained(folder)


def prepare(folder, rows, expect=0, **options):
    """Runs anneal-prepare; returns (list of (ids, weights), report)."""
    data = folder / "train.jsonl"
    data.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    task = {
        "job": "01hf7yat00abcdefghjkmnpqrs",
        "model_dir": str(folder),
        "train_files": [{"path": str(data), "display_name": "train.jsonl"}],
        "output_dir": str(folder / "prepared"),
        "template_time_unix_seconds": int(NOW.replace(tzinfo=datetime.timezone.utc).timestamp()),
        "max_length": 4096,
        "threads": 2,
        **options,
    }
    (folder / "task.json").write_text(json.dumps(task))
    done = subprocess.run([PREPARE, "run", "--task", folder / "task.json"], capture_output=True, text=True, timeout=120)
    assert done.returncode == expect, done.stdout + done.stderr
    report = json.loads(done.stdout)
    if expect != 0:
        return [], report
    arrays = safetensors_numpy.load_file(report["train_data"])
    offsets = arrays["example_offsets"].tolist()
    ids, weights = arrays["token_ids"].tolist(), arrays["loss_weight"].tolist()
    spans = list(zip(offsets, offsets[1:]))
    return [(ids[a:b], weights[a:b]) for a, b in spans], report


def token_bytes(tokenizer, text, ids):
    """Byte range of each token, by the lengths of byte-level tokens rather than by anybody's offsets."""
    ranges, at = [], 0
    for token in tokenizer.convert_ids_to_tokens(ids):
        length = len(token.encode()) if token in SPECIALS else len(token)
        ranges.append((at, at + length))
        at += length
    assert at == len(text.encode())
    return ranges


def mask_of_chars(tokenizer, text, ids, spans):
    """1 for tokens that cover a byte of one of the character spans; never the first token."""
    spans = [(len(text[:a].encode()), len(text[:b].encode())) for a, b in spans]
    ranges = token_bytes(tokenizer, text, ids)
    mask = [int(any(begin < b and end > a for a, b in spans)) for begin, end in ranges]
    return [0] + mask[1:]


def prefix_spans(tokenizer, messages, after_turn):
    """Assistant turns by rendering prefixes; `after_turn` is what the template writes behind the last end-of-turn token."""
    render = lambda part, prompt: tokenizer.apply_chat_template(part, tokenize=False, add_generation_prompt=prompt)
    full = render(messages, False)
    spans = []
    for i, message in enumerate(messages):
        if message["role"] != "assistant":
            continue
        before, through = render(messages[:i], True), render(messages[: i + 1], False)
        assert through.endswith(after_turn)
        through = through[: len(through) - len(after_turn)]
        assert full.startswith(before) and full.startswith(through)
        spans.append((len(before), len(through)))
    return full, spans


@pytest.fixture(autouse=True)
def fixed_clock(monkeypatch):
    class FixedDatetime(datetime.datetime):
        @classmethod
        def now(cls, tz=None):
            return NOW

    monkeypatch.setattr(chat_template_utils, "datetime", FixedDatetime)


def chats_for(family):
    return CHATS + SYSTEM_CHATS if PLAIN[family][1] else CHATS


@pytest.mark.parametrize("backend", ["byte_level", "byte_level_trimmed"])
@pytest.mark.parametrize("family", PLAIN)
def test_ids_and_assistant_masks(tmp_path, backends, family, backend):
    template, _, after_turn = PLAIN[family]
    tokenizer = make_model(tmp_path, backends[backend], template)
    prepared, _ = prepare(tmp_path, [{"messages": chat} for chat in chats_for(family)])
    for chat, (ids, weights) in zip(chats_for(family), prepared, strict=True):
        assert ids == tokenizer.apply_chat_template(chat, return_dict=False)
        full, spans = prefix_spans(tokenizer, chat, after_turn)
        assert weights == mask_of_chars(tokenizer, full, ids, spans), full


@pytest.mark.parametrize("family", ["llama2", "mistral", "zephyr", "vicuna"])
def test_ids_and_masks_of_a_metaspace_tokenizer(tmp_path, backends, family):
    template, _, after_turn = PLAIN[family]
    tokenizer = make_model(tmp_path, backends["metaspace"], template)
    prepared, _ = prepare(tmp_path, [{"messages": chat} for chat in chats_for(family)])
    for chat, (ids, weights) in zip(chats_for(family), prepared, strict=True):
        assert ids == tokenizer.apply_chat_template(chat, return_dict=False)
        full, spans = prefix_spans(tokenizer, chat, after_turn)
        offsets = tokenizer(full, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
        expected = [int(any(begin < b and end > a for a, b in spans)) for begin, end in offsets]
        assert weights == [0] + expected[1:], full


@pytest.mark.parametrize("with_marks", [True, False])
@pytest.mark.parametrize("family", MARKED)
def test_thoughts_tools_and_tool_calls(tmp_path, backends, family, with_marks):
    """With marks our masks are transformers'; without marks tracing finds the same turns."""
    template = marked(MARKED[family])
    tokenizer = make_model(tmp_path, backends["byte_level"], template if with_marks else unmarked(MARKED[family]))
    rows = THINKING_ROWS if family == "thinking" else TOOL_ROWS[: 4 if family == "llama3_tools" else None]
    prepared, _ = prepare(tmp_path, rows)
    for row, (ids, weights) in zip(rows, prepared, strict=True):
        expected = tokenizer.apply_chat_template(
            row["messages"], tools=row.get("tools"), chat_template=template, return_dict=True, return_assistant_tokens_mask=True
        )
        assert ids == expected["input_ids"]
        assert weights == [0] + expected["assistant_masks"][1:], tokenizer.decode(ids)


@pytest.mark.parametrize("family", ["chatml", "llama2", "llama3", "deepseek", "granite"])
def test_train_on_and_weights(tmp_path, backends, family):
    template, _, after_turn = PLAIN[family]
    tokenizer = make_model(tmp_path, backends["byte_level"], template)
    chat = [system("s"), user("one"), assistant("first"), user("two"), assistant("second"), user("three"), assistant("third")]
    turns = {2: 0, 4: 1, 6: 2}  # message -> assistant turn
    full, spans = prefix_spans(tokenizer, chat, after_turn)

    def weighted(weights):
        return [{**message, **({"weight": weights[i]} if i in weights else {})} for i, message in enumerate(chat)]

    for train_on, weights, counted in [
        ("ASSISTANT", {}, [0, 1, 2]),
        ("ASSISTANT", {4: 0}, [0, 2]),
        ("LAST_TURN", {}, [2]),
        ("LAST_TURN", {2: 1}, [0, 2]),
        ("LAST_TURN", {2: 1, 6: 0}, [0]),
    ]:
        [(ids, mask)], _ = prepare(tmp_path, [{"messages": weighted(weights)}], train_on=train_on)
        assert ids == tokenizer.apply_chat_template(chat, return_dict=False)
        assert mask == mask_of_chars(tokenizer, full, ids, [spans[i] for i in counted])

    [(ids, mask)], _ = prepare(tmp_path, [{"messages": chat}], train_on="ALL")
    assert mask == [0] + [1] * (len(ids) - 1)
    [(ids, mask)], _ = prepare(tmp_path, [{"messages": weighted({4: 0})}], train_on="ALL")
    left_out = mask_of_chars(tokenizer, full, ids, [spans[turns[4]]])
    assert mask == [0] + [1 - weight for weight in left_out[1:]]


@pytest.mark.parametrize("backend", BACKENDS)
def test_prompt_completion_and_text_rows(tmp_path, backends, backend):
    """As TRL's SFTTrainer: one text with the end token behind it, special tokens added; the prompt's own tokens do not count."""
    tokenizer = make_model(tmp_path, backends[backend], None)
    rows = [
        {"prompt": "What is 2 + 2?\n", "completion": "It is 4!"},
        {"prompt": "Translate: 東京", "completion": "\nTokyo 😀"},
        {"prompt": "Hello,", "completion": " world!</s>"},
        {"text": "The quick brown fox.\n\nZürich"},
    ]
    prepared, _ = prepare(tmp_path, rows)
    for row, (ids, weights) in zip(rows, prepared):
        text = row.get("text", row.get("prompt", "") + row.get("completion", ""))
        text += "" if text.endswith("</s>") else "</s>"
        assert ids == tokenizer(text)["input_ids"]
        assert ids[0] == tokenizer.bos_token_id and ids[-1] == tokenizer.eos_token_id
        prompt_ids = tokenizer(row["prompt"])["input_ids"] if "prompt" in row else [tokenizer.bos_token_id]
        assert ids[: len(prompt_ids)] == prompt_ids, "the rows are chosen so that no token crosses the boundary"
        assert weights == [0] * len(prompt_ids) + [1] * (len(ids) - len(prompt_ids))


def test_a_row_in_which_nothing_counts_is_an_error(tmp_path, backends):
    make_model(tmp_path, backends["byte_level"], CHATML)
    silent = {**assistant("a"), "weight": 0}
    rows = [{"messages": messages} for messages in (CHATS[0], [user("a")], [user("a"), silent], [system("a"), user("b"), silent, user("c")])]
    for train_on in ("ASSISTANT", "LAST_TURN"):
        _, report = prepare(tmp_path, rows, expect=2, train_on=train_on)
        assert [(issue["line"], issue["code"]) for issue in report["issues"]] == [(n, "NOTHING_TO_LEARN") for n in (2, 3, 4)]


def test_rows_a_template_refuses_are_named(tmp_path, backends):
    make_model(tmp_path, backends["byte_level"], GEMMA)
    rows = [{"messages": CHATS[0]}, {"messages": SYSTEM_CHATS[0]}]
    _, report = prepare(tmp_path, rows, expect=2)
    [issue] = report["issues"]
    assert (issue["file"], issue["line"], issue["field"]) == ("train.jsonl", 2, "messages")
    assert "System role not supported" in issue["message"]


def test_output_does_not_depend_on_threads(tmp_path, backends):
    make_model(tmp_path, backends["byte_level"], CHATML)
    rows = [{"messages": [user(f"question {i}"), assistant(f"answer {i} " * (1 + i % 7))]} for i in range(500)]
    digests = set()
    for threads in (1, 2, 5):
        _, report = prepare(tmp_path, rows, threads=threads, validation_fraction=0.1, seed=3)
        assert (report["train_rows"], report["validation_rows"]) == (450, 50)
        parts = [pathlib.Path(report[key]).read_bytes() for key in ("train_data", "validation_data", "data_report")]
        digests.add(hash(tuple(parts)))
    assert len(digests) == 1
