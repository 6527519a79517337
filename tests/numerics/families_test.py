"""Every family against transformers: logits, losses and every gradient, in float32 and float64, whole models and LoRA."""

import json
import random

import peft
import pytest
import reference
import tiny_model
import torch
import transformers

# In float64 the two sides differ by the order of additions alone; in float32 by that order's rounding, and transformers'
# own rounding of rotary tables and norms.
TOLERANCES = {"float32": {"logits": 1e-4, "losses": 1e-4, "gradient": 1e-3},
              "float64": {"logits": 1e-9, "losses": 1e-9, "gradient": 1e-9}}
LLAMA3_ROPE = dict(rope_type="llama3", rope_theta=500.0, factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
                   original_max_position_embeddings=32)

CASES = {
    "llama-tied": ("llama", dict(tied=True)),
    "llama-untied": ("llama", dict(tied=False, head_dim=24)),
    "llama-biases": ("llama", dict(attention_bias=True, mlp_bias=True)),
    "llama-llama3-rope": ("llama", dict(rope_parameters=LLAMA3_ROPE)),
    "llama-padding-token-in-use": ("llama", dict(pad_token_id=7)),
    "mistral-window": ("mistral", dict(sliding_window=7, tied=False)),
    "mistral-no-window": ("mistral", dict(sliding_window=None)),
    "qwen2": ("qwen2", dict()),
    "qwen2-windows": ("qwen2", dict(use_sliding_window=True, sliding_window=5, max_window_layers=1, tied=False)),
    "qwen3": ("qwen3", dict(head_dim=24)),
    "qwen3-biases-windows": ("qwen3", dict(
        attention_bias=True, use_sliding_window=True, sliding_window=9,
        layer_types=["sliding_attention", "full_attention", "sliding_attention"])),
}


def random_rows(vocabulary, lengths=(2, 17, 40, 64), share=0.4):
    """Rows of token ids, and which tokens are supervised: never the first, always the last."""
    chance = random.Random(3)
    rows = [[chance.randrange(vocabulary) for _ in range(length)] for length in lengths]
    rows[-1][3:6] = [7, 7, 7]  # the padding token of one case
    supervised = [[0] + [int(chance.random() < share) for _ in row[2:]] + [1] for row in rows]
    return rows, supervised


def assert_close(ours, theirs, dtype):
    assert {name for name in theirs if name.startswith("gradient/")} == {
        name for name in ours if name.startswith("gradient/")}
    for name, expected in theirs.items():
        expected = expected.double()
        if name == "logits" or name == "losses":
            error, scale = (ours[name] - expected).abs().max().item(), expected.abs().max().item()
        else:
            error, scale = (ours[name] - expected).norm().item(), expected.norm().item()
        assert scale > 0, name
        assert error <= TOLERANCES[dtype][name.split("/")[0]] * scale, (name, error / scale)


def as_type(model, dtype):
    return reference.in_double(model) if dtype == "float64" else model


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("case", CASES)
def test_whole_models_equal_transformers(tmp_path, programs, case, dtype):
    family, settings = CASES[case]
    model = tiny_model.make_model(tmp_path / "model", family, **settings)
    rows, supervised = random_rows(model.config.vocab_size)
    theirs = reference.compute(as_type(model, dtype), rows, supervised)
    assert_close(programs.probe(tmp_path / "model", rows, supervised, dtype), theirs, dtype)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("case", CASES)
def test_adapters_equal_peft(tmp_path, programs, case, dtype):
    family, settings = CASES[case]
    base = tiny_model.make_model(tmp_path / "model", family, **settings)
    model = peft.get_peft_model(base, peft.LoraConfig(
        r=4, lora_alpha=8, target_modules="all-linear", task_type="CAUSAL_LM", init_lora_weights=False))
    model.save_pretrained(tmp_path / "adapter")
    rows, supervised = random_rows(base.config.vocab_size)
    theirs = reference.compute(as_type(model, dtype), rows, supervised)
    ours = programs.probe(tmp_path / "model", rows, supervised, dtype, adapter=tmp_path / "adapter")
    assert_close(ours, theirs, dtype)


def spell_as_transformers_4(path):
    """config.json with rope_theta and rope_scaling at the top and torch_dtype, as transformers 4 wrote it."""
    config = json.loads(path.read_text())
    rope = config.pop("rope_parameters")
    config["rope_theta"] = rope.pop("rope_theta")
    config["rope_scaling"] = None if rope["rope_type"] == "default" else rope
    config["torch_dtype"] = config.pop("dtype")
    config["transformers_version"] = "4.46.0"
    path.write_text(json.dumps(config))


@pytest.mark.parametrize("case", ["llama-tied", "llama-llama3-rope", "mistral-window", "qwen2-windows", "qwen3"])
def test_both_spellings_of_a_config_mean_the_same(tmp_path, programs, case):
    family, settings = CASES[case]
    model = tiny_model.make_model(tmp_path / "model", family, **settings)
    rows, _ = random_rows(model.config.vocab_size)
    new = programs.logits(tmp_path / "model", rows)
    spell_as_transformers_4(tmp_path / "model" / "config.json")
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "model", dtype=torch.float32)
    for ours, row, before in zip(programs.logits(tmp_path / "model", rows), rows, new, strict=True):
        assert torch.equal(ours, before)
        expected = theirs(input_ids=torch.tensor([row])).logits[0].detach()
        assert (ours - expected).abs().max() < 1e-4 * expected.abs().max()


@pytest.mark.parametrize("case", ["llama-llama3-rope", "mistral-window", "qwen2-windows", "qwen3-biases-windows"])
def test_generate_says_what_transformers_says(tmp_path, programs, case):
    family, settings = CASES[case]
    model = tiny_model.make_model(tmp_path / "model", family, **settings)
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "model")
    ids = tokenizer("the cat sat on the mat", add_special_tokens=False)["input_ids"]
    prompt = len(ids)
    while len(ids) < prompt + 20 and ids[-1] != model.config.eos_token_id:
        with torch.no_grad():
            ids.append(model(input_ids=torch.tensor([ids])).logits[0, -1].argmax().item())
    expected = tokenizer.decode(ids[prompt:], skip_special_tokens=True)
    assert programs.generate(tmp_path / "model", "the cat sat on the mat", max_tokens=20) == expected + "\n"


@pytest.mark.parametrize("lora", [True, False])
@pytest.mark.parametrize("case", ["llama-biases", "mistral-window", "qwen2-windows", "qwen3-biases-windows"])
def test_runs_replay(tmp_path, programs, case, lora):
    family, settings = CASES[case]
    tiny_model.make_model(tmp_path / "model", family, **settings)
    tiny_model.write_chat_rows(tmp_path / "train.jsonl", 32)
    data, _ = programs.prepare(tmp_path / "model", tmp_path / "train.jsonl")
    method = dict(lora={"rank": 4, "alpha": 8}, learning_rate=5e-3) if lora else dict(learning_rate=1e-3)
    out, _ = programs.train(tmp_path / "model", data, seed=11, epochs=2, batch_size=16, weight_decay=0.1, **method)
    done, summary = programs.replay(out, "--data", data)
    assert done.returncode == 0 and summary["agrees"], done.stdout + done.stderr


# bfloat16 keeps eight bits of each product; over a few layers their errors mostly cancel. The bounds are about three times
# what is seen.
BF16_TOLERANCES = {"losses": 0.03, "gradient": 0.1}


@pytest.mark.parametrize("lora", [True, False])
@pytest.mark.parametrize("case", ["llama-biases", "mistral-window", "qwen2", "qwen3"])
def test_bf16_stays_near_float32(tmp_path, programs, case, lora):
    family, settings = CASES[case]
    model = tiny_model.make_model(tmp_path / "model", family, **settings)
    if lora:
        model = peft.get_peft_model(model, peft.LoraConfig(
            r=4, lora_alpha=8, target_modules="all-linear", task_type="CAUSAL_LM", init_lora_weights=False))
        model.save_pretrained(tmp_path / "adapter")
    rows, supervised = random_rows(model.config.vocab_size)
    theirs = reference.compute(model, rows, supervised)
    ours = programs.probe(tmp_path / "model", rows, supervised, "bfloat16", adapter=tmp_path / "adapter" if lora else "")
    worst = 0
    for name, expected in theirs.items():
        if name == "logits":
            continue
        error = (ours[name] - expected).norm().item() / expected.norm().item()
        assert error < BF16_TOLERANCES[name.split("/")[0]], (name, error)
        worst = max(worst, error)
    assert worst > 1e-4  # it was bfloat16
