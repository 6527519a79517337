"""Our numbers against transformers and peft, on tiny random models, in fp32.

Both sides add the same products in another order, so they differ by rounding; the tolerances leave a margin of about ten.
"""

import random
import shutil

import peft
import pytest
import tiny_model
import torch
import transformers

LOGIT_TOLERANCE = 1e-4  # relative to the largest logit
LOADED_LOGIT_TOLERANCE = 1e-3  # absolute: what an exported model or adapter may differ by where it is loaded
SEED = 11


def random_rows(vocabulary, lengths=(1, 2, 17, 40, 128)):
    chance = random.Random(3)
    return [[chance.randrange(vocabulary) for _ in range(length)] for length in lengths]


def their_logits(model, rows):
    with torch.no_grad():
        return [model(input_ids=torch.tensor([row])).logits[0].float() for row in rows]


def largest_difference(ours, theirs):
    return max((a - b).abs().max().item() for a, b in zip(ours, theirs, strict=True))


def load(folder):
    return transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


@pytest.mark.parametrize("settings", [
    dict(tied=True), dict(tied=False), dict(head_dim=24), dict(num_key_value_heads=4), dict(num_key_value_heads=1),
    dict(rope_theta=100000.0, rms_norm_eps=1e-6)], ids=str)
def test_logits_equal_transformers(tmp_path, programs, settings):
    model = tiny_model.make_llama(tmp_path / "model", **settings).eval()
    rows = random_rows(model.config.vocab_size)
    expected = their_logits(model, rows)
    scale = max(row.abs().max().item() for row in expected)
    assert largest_difference(programs.logits(tmp_path / "model", rows), expected) < LOGIT_TOLERANCE * scale


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_weights_and_shards_are_read_as_they_are(tmp_path, programs, dtype):
    model = tiny_model.make_llama(tmp_path / "model").to(dtype)
    (tmp_path / "model" / "model.safetensors").unlink()
    model.save_pretrained(tmp_path / "model", max_shard_size="200KB")
    assert (tmp_path / "model" / "model.safetensors.index.json").exists()
    rows = random_rows(model.config.vocab_size)
    expected = their_logits(load(tmp_path / "model"), rows)
    assert largest_difference(programs.logits(tmp_path / "model", rows), expected) < LOADED_LOGIT_TOLERANCE


@pytest.mark.parametrize("settings", [
    dict(target_modules="all-linear"), dict(target_modules=["q_proj", "down_proj"], use_rslora=True)], ids=str)
def test_adapters_of_peft_give_peft_s_logits(tmp_path, programs, settings):
    base = tiny_model.make_llama(tmp_path / "model")
    config = peft.LoraConfig(r=4, lora_alpha=16, task_type="CAUSAL_LM", init_lora_weights=False, **settings)
    model = peft.get_peft_model(base, config).eval()
    model.save_pretrained(tmp_path / "adapter")
    rows = random_rows(base.config.vocab_size)
    ours = programs.logits(tmp_path / "model", rows, tmp_path / "adapter")
    assert largest_difference(ours, their_logits(model, rows)) < LOADED_LOGIT_TOLERANCE
    assert largest_difference(ours, programs.logits(tmp_path / "model", rows)) > 0.1


def prepared(tmp_path, programs, **settings):
    tiny_model.make_llama(tmp_path / "model", **settings)
    tiny_model.write_chat_rows(tmp_path / "train.jsonl", 48)
    return programs.prepare(tmp_path / "model", tmp_path / "train.jsonl")


TRAINING = dict(seed=SEED, epochs=4, batch_size=16, learning_rate=5e-3)


def test_adapter_loads_in_peft_and_merged_in_transformers(tmp_path, programs):
    data, rows = prepared(tmp_path, programs)
    out, _ = programs.train(tmp_path / "model", data, lora={"rank": 4, "alpha": 8}, export_merged=True, **TRAINING)

    probe = [row.tolist() for row, _ in rows[:8]]
    ours = programs.logits(tmp_path / "model", probe, out / "adapter")
    tuned = peft.PeftModel.from_pretrained(load(tmp_path / "model"), out / "adapter").eval()
    assert largest_difference(ours, their_logits(tuned, probe)) < LOADED_LOGIT_TOLERANCE
    assert largest_difference(ours, their_logits(load(tmp_path / "model"), probe)) > 0.1
    # The merged model is a model of its own: it must load where the base is not.
    shutil.move(tmp_path / "model", tmp_path / "elsewhere")
    assert largest_difference(ours, their_logits(load(out / "merged"), probe)) < LOADED_LOGIT_TOLERANCE
    tokenizer = transformers.AutoTokenizer.from_pretrained(out / "merged")
    assert tokenizer("the cat")["input_ids"]


@pytest.mark.parametrize("tied", [True, False])
def test_fully_tuned_model_loads_in_transformers(tmp_path, programs, tied):
    data, rows = prepared(tmp_path, programs, tied=tied)
    out, _ = programs.train(tmp_path / "model", data, **{**TRAINING, "learning_rate": 1e-3})
    probe = [row.tolist() for row, _ in rows[:8]]
    ours = programs.logits(out / "model", probe)
    assert largest_difference(ours, their_logits(load(out / "model"), probe)) < LOADED_LOGIT_TOLERANCE
    assert largest_difference(ours, their_logits(load(tmp_path / "model"), probe)) > 0.1
    eos = transformers.GenerationConfig.from_pretrained(out / "model").eos_token_id
    assert 2 in (eos if isinstance(eos, list) else [eos])
