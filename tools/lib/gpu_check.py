"""The training half of tools/gpu_check: gpu_check.py BIN_DIR WORK_DIR, on a machine with a GPU.

Runs anneal-prepare and anneal-trainer on task files, as a worker would, and reads the reports they print.
"""

import hashlib
import json
import shutil
import statistics
import subprocess
import sys
from pathlib import Path

SOURCE_DIR = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(SOURCE_DIR / "tests" / "testing"))

import tiny_model  # noqa: E402

# Sizes of SmolLM2-135M; the weights are random, which changes no speed.
LLAMA_135M = dict(
    vocab_size=49152, hidden_size=576, intermediate_size=1536, num_hidden_layers=30, num_attention_heads=9,
    num_key_value_heads=3, max_position_embeddings=2048)
# Relative difference of a step's loss. Float: a dozen steps of an optimizer that divides by tiny numbers let rounding grow.
# Bfloat16: eight bits.
SAME_CURVE = {"FP32": 1e-3, "BF16": 3e-2}
WARM_UP_STEPS = 5


def run(program, task, folder):
    """Runs `program run --task`, with its log in `folder`; returns the JSON objects it printed."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "task.json").write_text(json.dumps(task))
    with open(folder / "log", "wb") as log:
        done = subprocess.run([program, "run", "--task", folder / "task.json"], stdout=subprocess.PIPE, stderr=log)
    if done.returncode != 0:
        end = (folder / "log").read_text(errors="replace")[-3000:]
        sys.exit(f"{program.name} ended with {done.returncode}; the end of {folder / 'log'}:\n{end}")
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith(b"{")]


class Check:
    def __init__(self, bin_dir, work_dir):
        self.bin_dir, self.work_dir = bin_dir, work_dir
        self.failures = []
        self.summary = {"curves": {}, "throughput": {}}

    def prepare(self, name, model_dir, rows, **options):
        task = dict(job=name, model_dir=str(model_dir), train_files=[dict(path=str(rows), display_name=rows.name)],
                    output_dir=str(self.work_dir / name / "prepared"), threads=4, **options)
        return run(self.bin_dir / "anneal-prepare", task, self.work_dir / name / "prepare")[-1]["train_data"]

    def train(self, name, **options):
        """Returns (step reports, hash of the ledger and the trained weights)."""
        folder = self.work_dir / name
        shutil.rmtree(folder, ignore_errors=True)
        options = dict(dict(job=name, output_dir=str(folder / "outputs"), learning_rate=5e-3, seed=7, threads=4), **options)
        reports = run(self.bin_dir / "anneal-trainer", options, folder)
        digest = hashlib.sha256()
        for path in sorted((folder / "outputs").rglob("*")):
            if path.name == "ledger.jsonl" or path.suffix == ".safetensors":
                digest.update(path.name.encode() + path.read_bytes())
        return [report["step"] for report in reports if report.get("step")], digest.hexdigest()

    def compare(self, what, expected, actual, tolerance):
        """Compares two loss curves step by step."""
        pairs = list(zip((s["train_loss"] for s in expected), (s["train_loss"] for s in actual), strict=True))
        worst = max(abs(a - b) / abs(a) for a, b in pairs)
        good = bool(pairs) and worst <= tolerance
        print(f"  {what}: {len(pairs)} steps, loss {pairs[0][1]:.4f} to {pairs[-1][1]:.4f}, "
              f"differs by at most {worst:.1e} (allowed {tolerance:.0e}){'' if good else '  FAILED'}")
        self.summary["curves"][what] = dict(steps=len(pairs), worst_relative_difference=worst, tolerance=tolerance)
        if not good:
            self.failures.append(what)

    def check_curves(self):
        folder = self.work_dir / "tiny"
        tiny_model.make_llama(folder / "model")
        tiny_model.write_chat_rows(folder / "train.jsonl", 96)
        data = self.prepare("tiny", folder / "model", folder / "train.jsonl", max_length=128)
        for method, lora in (("lora", dict(rank=4, alpha=8)), ("full", None)):
            common = dict(model_dir=str(folder / "model"), train_data=data, epochs=2, lora=lora,
                          **({} if lora else dict(learning_rate=1e-3)))
            cpu, _ = self.train(f"{method}-cpu", device="cpu", **common)
            first, bits = self.train(f"{method}-cuda", device="cuda", **common)
            _, again = self.train(f"{method}-cuda-again", device="cuda", **common)
            narrow, _ = self.train(f"{method}-cuda-bf16", device="cuda", precision="BF16", **common)
            self.compare(f"{method}: GPU FP32 against CPU FP32", cpu, first, SAME_CURVE["FP32"])
            self.compare(f"{method}: GPU BF16 against CPU FP32", cpu, narrow, SAME_CURVE["BF16"])
            print(f"  {method}: two runs on the GPU give {'the same bits' if bits == again else 'DIFFERENT BITS'}")
            self.summary["curves"][f"{method}: same bits twice"] = bits == again
            if bits != again:
                self.failures.append(f"{method}: bits change from run to run")

    def measure_throughput(self):
        folder = self.work_dir / "llama-135m"
        tiny_model.make_llama(folder / "model", **LLAMA_135M)
        with open(folder / "train.jsonl", "w", encoding="utf-8") as file:
            for row in range(1280):
                words = [tiny_model.WORDS[(row * 7 + i * i + i * row) % len(tiny_model.WORDS)] for i in range(400)]
                file.write(json.dumps({"text": " ".join(words)}) + "\n")
        data = self.prepare("llama-135m", folder / "model", folder / "train.jsonl", max_length=2048, train_on="ALL")
        for method, lora in (("lora", dict(rank=16, alpha=32)), ("full", None)):
            steps, _ = self.train(f"speed-{method}", device="cuda", precision="BF16", model_dir=str(folder / "model"),
                                  train_data=data, epochs=1, batch_size=64, lora=lora, microbatch_tokens=8192,
                                  learning_rate=1e-4)
            speeds = [s["tokens"] / s["step_seconds"] for s in steps[WARM_UP_STEPS:]]
            speed = statistics.median(speeds)
            print(f"  135M llama, {method}, bfloat16: {speed:,.0f} tokens/s "
                  f"(median of {len(speeds)} steps of about {steps[-2]['tokens']:,} tokens; {min(speeds):,.0f} to {max(speeds):,.0f})")
            self.summary["throughput"][method] = dict(tokens_per_second=speed, steps=len(speeds), slowest=min(speeds),
                                                      fastest=max(speeds), tokens_per_step=steps[-2]["tokens"])


def main():
    bin_dir, work_dir = Path(sys.argv[1]).resolve(), Path(sys.argv[2]).resolve()
    shutil.rmtree(work_dir, ignore_errors=True)
    work_dir.mkdir(parents=True)
    check = Check(bin_dir, work_dir)
    query = ["nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"]
    check.summary["gpu"] = subprocess.run(query, capture_output=True, text=True, check=True).stdout.strip().splitlines()[0]
    print(f"  on {check.summary['gpu']}")
    check.check_curves()
    check.measure_throughput()
    check.summary["failures"] = check.failures
    (work_dir / "summary.json").write_text(json.dumps(check.summary, indent=2) + "\n")
    return 1 if check.failures else 0


if __name__ == "__main__":
    sys.exit(main())
