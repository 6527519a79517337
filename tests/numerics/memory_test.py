"""What real trainer processes allocate, against the plan of common/plan/memory_plan.h: within a tenth, in every sharding mode.

Both numbers come from the trainers' logs: the plan is made before the first step, the peak is counted where tensors get their
memory. The models are small, but large enough that weights, moments and gradients weigh more than what a process has besides.
"""

import re

import pytest
import tiny_model
from prepared_data import write_prepared

RANKS = 2
ROW_TOKENS = 96
MODEL = dict(vocab_size=2048, hidden_size=256, intermediate_size=704, num_hidden_layers=10, num_attention_heads=4,
             num_key_value_heads=2, head_dim=64)
METHODS = {
    "full": dict(learning_rate=1e-4),
    "full-bf16": dict(learning_rate=1e-4, precision="BF16"),
    "lora": dict(learning_rate=1e-3, lora={"rank": 8, "alpha": 16}),
    "lora-bf16": dict(learning_rate=1e-3, lora={"rank": 8, "alpha": 16}, precision="BF16"),
}
TOGETHER, SEVERAL = 8 * ROW_TOKENS, ROW_TOKENS  # microbatch_tokens: a rank's cells of a step in one pass, or in several
CASES = [("full", TOGETHER), ("full-bf16", SEVERAL), ("lora", SEVERAL), ("lora-bf16", TOGETHER)]


def numbers(log, event):
    """The numbers of the log line that tells of `event`."""
    line = next(line for line in log.splitlines() if event in line)
    return {name: int(value) for name, value in re.findall(r"(\w+)=(\d+)\b", line[line.index(event):])}


@pytest.mark.parametrize("method, microbatch_tokens", CASES)
def test_the_peak_follows_the_plan(tmp_path, programs, method, microbatch_tokens):
    tiny_model.make_llama(tmp_path / "model", **MODEL)
    rows = [([(7 * row + place) % 500 for place in range(ROW_TOKENS)], [0] + [1] * (ROW_TOKENS - 1)) for row in range(16)]
    write_prepared(tmp_path / "train.safetensors", rows, vocab_size=500)
    peaks = {}
    for sharding in ("NONE", "OPTIMIZER", "GRADIENTS", "FULL"):
        programs.train(tmp_path / "model", tmp_path / "train.safetensors", RANKS, out=sharding, sharding=sharding, batch_size=8,
                       microbatch_tokens=microbatch_tokens, checkpoint_root=f"{sharding}-checkpoints", checkpoint_seconds=1e-9,
                       **METHODS[method])
        for rank, log in enumerate(programs.logs):
            plan, trained, ended = (numbers(log, event) for event in ("memory plan", "trained", "ended"))
            assert trained["peak_tensor_bytes"] == pytest.approx(plan["total_bytes"], rel=0.1), (sharding, rank)
            assert ended["peak_tensor_bytes"] <= 1.1 * plan["total_bytes"], (sharding, rank)
            peaks[sharding] = max(peaks.get(sharding, 0), trained["peak_tensor_bytes"])
    if microbatch_tokens == TOGETHER:
        assert peaks["FULL"] < peaks["GRADIENTS"] < peaks["OPTIMIZER"] < peaks["NONE"]
