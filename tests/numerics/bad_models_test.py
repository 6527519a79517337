"""Models that are not what a job needs, through the programs that meet them."""

import hashlib
import json
import subprocess

import pytest
import tiny_model
from conftest import BIN
from safetensors.torch import load_file, save_file


def content_hash(folder):
    """docs/formats/model_hash.md, by its words."""
    names = ("config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja",
             "special_tokens_map.json", "model.safetensors")
    lines = "".join(f"{hashlib.sha256((folder / name).read_bytes()).hexdigest()}  {name}\n"
                    for name in sorted(names) if (folder / name).exists())
    return hashlib.sha256(lines.encode()).hexdigest()


@pytest.fixture
def model(tmp_path):
    tiny_model.make_llama(tmp_path / "model")
    tiny_model.write_chat_rows(tmp_path / "train.jsonl", 16)
    return tmp_path / "model"


def run_task(program, folder, **task):
    """The exit record of a program that runs a task."""
    (folder / "task.json").write_text(json.dumps({"job": "j", "generation": 1, "output_dir": str(folder / "out"), **task}))
    (folder / "run").mkdir(exist_ok=True)
    done = subprocess.run([BIN / program, "run", "--task", folder / "task.json", "--run-dir", folder / "run"],
                          capture_output=True, text=True, timeout=120)
    return done, json.loads((folder / "run" / "exit.json").read_text())


def prepare(folder, model, **task):
    return run_task("anneal-prepare", folder, model_dir=str(model), max_length=128,
                    train_files=[{"path": str(folder / "train.jsonl"), "display_name": "train.jsonl"}], **task)


def change_weights(model, change):
    weights = load_file(model / "model.safetensors")
    change(weights)
    save_file(weights, model / "model.safetensors", metadata={"format": "pt"})


def test_a_model_that_changed_is_said_to_have_changed(tmp_path, programs, model):
    taken = content_hash(model)
    done, record = prepare(tmp_path, model, model_content_hash=taken)
    assert done.returncode == 0, done.stderr
    data = tmp_path / "out" / "train.safetensors"
    change_weights(model, lambda weights: weights["model.norm.weight"].mul_(1.5))
    for done, record in (
            prepare(tmp_path, model, model_content_hash=taken),
            run_task("anneal-trainer", tmp_path, model_dir=str(model), model_content_hash=taken, train_data=str(data),
                     resolved_job_json="{}")):
        assert done.returncode != 0 and record["reason"] == "MODEL_CHANGED", record
        assert "has changed since the job was created" in record["message"]
        assert taken in record["message"]


def test_nan_and_infinity_name_the_tensor_before_any_slot_is_taken(tmp_path, model):
    name = "model.layers.1.mlp.up_proj.weight"
    for bad in (float("nan"), float("-inf")):
        def spoil(weights, bad=bad):
            weights[name][3, 5] = bad
        change_weights(model, spoil)
        done, record = prepare(tmp_path, model, model_content_hash=content_hash(model))
        assert done.returncode != 0 and f'model.safetensors: tensor "{name}" holds NaN or infinity' in record["message"]


def test_shapes_that_contradict_the_config_name_both(tmp_path, programs, model):
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps({**config, "num_key_value_heads": 4}))
    with pytest.raises(AssertionError, match=r"k_proj.weight\" has shape \[32, 64\] where config.json asks for \[64, 64\]"):
        programs.logits(model, [[1, 2]])


def test_an_unknown_family_is_refused_by_name(programs, model):
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps({**config, "model_type": "gemma3", "architectures": ["Gemma3ForCausalLM"]}))
    with pytest.raises(AssertionError, match="model_type = \"gemma3\" is not supported; supported: llama, mistral, qwen2, qwen3"):
        programs.logits(model, [[1, 2]])


def test_a_target_that_matches_nothing_lists_what_there_is(tmp_path, programs, model):
    data, _ = programs.prepare(model, tmp_path / "train.jsonl")
    with pytest.raises(AssertionError, match='c_attn.*matches no linear layer; there are q_proj, k_proj'):
        programs.train(model, data, lora={"rank": 4, "target_modules": ["c_attn"]})
