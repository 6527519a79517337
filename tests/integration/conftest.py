"""Fixtures shared by the integration tests."""

import os
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(os.environ["ANNEAL_SOURCE_DIR"]) / "tests" / "testing"))

import tiny_model  # noqa: E402
from mini_cluster import stubs  # noqa: E402


@pytest.fixture(scope="session")
def tiny(tmp_path_factory):
    """A folder with a tiny random llama (model/) and chat rows (train.jsonl, validation.jsonl)."""
    folder = tmp_path_factory.mktemp("tiny")
    tiny_model.make_llama(folder / "model")
    tiny_model.write_chat_rows(folder / "train.jsonl", 96, seed=1)
    tiny_model.write_chat_rows(folder / "validation.jsonl", 24, seed=2)
    return folder


@pytest.fixture(scope="session")
def make_spec(tiny):
    """make_spec(**training) -> JobSpec of a small LoRA job on two CPU slots."""
    pb2 = stubs("job_pb2")

    def make(slots=2, display_name="tiny", **training):
        settings = dict(epochs=2, batch_size=16, learning_rate=5e-3, seed=7)
        settings.update(training)
        return pb2.JobSpec(
            display_name=display_name, model=f"file://{tiny}/model",
            method=pb2.Method(lora=pb2.LoraMethod(rank=4, alpha=8)),
            data=pb2.DataSpec(train=[f"file://{tiny}/train.jsonl"],
                              validation=pb2.ValidationSpec(files=[f"file://{tiny}/validation.jsonl"]), max_length=128),
            training=pb2.TrainingSpec(**settings),
            resources=pb2.ResourceSpec(slots=slots, accelerator=pb2.ResourceSpec.ACCELERATOR_CPU))
    return make
