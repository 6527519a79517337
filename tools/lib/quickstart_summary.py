"""Says in words what the quick start's job did, and writes build/quickstart/summary.json.

    quickstart_summary.py WORK_DIR MODEL_DIR      (WORK_DIR holds job.json, workers.json and artifacts.json as `anneal --output json` wrote them)
"""

import json
import sys
from pathlib import Path
from urllib.parse import urlparse


def seconds(duration):
    """Protobuf's JSON duration: "12.5s"."""
    return float(duration.rstrip("s"))


def main(work, model_dir):
    job = json.loads((work / "job.json").read_text())
    workers = json.loads((work / "workers.json").read_text())["workers"]
    outputs = Path(urlparse(json.loads((work / "artifacts.json").read_text())["folder_uri"]).path)
    result, data = job["result"], job["data"]
    before, after = result["before"], result["after"]
    summary = {
        "base_accuracy": before["choice_accuracy"],
        "tuned_accuracy": after["choice_accuracy"],
        "base_exact_match": before.get("exact_match", 0.0),
        "tuned_exact_match": after.get("exact_match", 0.0),
        "base_validation_loss": before["loss"],
        "tuned_validation_loss": after["loss"],
        "train_rows": data["train_rows"],
        "validation_rows": data["validation_rows"],
        "slots": job["resolved"]["spec"]["resources"]["slots"],
        "workers": len(workers),
        "steps": job["progress"]["step"],
        "first_loss": result["first_loss"],
        "last_loss": result["last_loss"],
        "train_seconds": seconds(result["train_time"]),
        "evaluation_seconds": seconds(result["evaluation_time"]),
        "tokens": job["usage"]["trained_tokens"],
        "job": job["name"],
        "adapter_dir": str(outputs / "adapter"),
        "base_model_dir": model_dir,
        "train_file": str(work / "data" / "train.jsonl"),
        "validation_file": str(work / "data" / "validation.jsonl"),
    }
    summary["tokens_per_second"] = summary["tokens"] / summary["train_seconds"]
    (work / "summary.json").write_text(json.dumps(summary, indent=2) + "\n")

    print(f"""
SmolLM2-135M-Instruct learned to tell good movie reviews from bad ones.

  accuracy     {summary['base_accuracy']:.3f} before, {summary['tuned_accuracy']:.3f} after, on {summary['validation_rows']} reviews it never trained on
               (choosing between the two answers; answering freely and exactly: {summary['base_exact_match']:.3f} before, {summary['tuned_exact_match']:.3f} after)
  loss         {summary['first_loss']:.4f} in the first step, {summary['last_loss']:.4f} in the last of {summary['steps']}
  speed        {summary['tokens']:,} tokens in {summary['train_seconds']:.0f} s on {summary['slots']} CPU slots: {summary['tokens_per_second']:.0f} tokens/s
  adapter      {summary['adapter_dir']}
  base model   {model_dir}
  numbers      {work / 'summary.json'}

Use it with PEFT:
  model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained("{model_dir}"), "{summary['adapter_dir']}")
or serve it with vLLM:
  vllm serve {model_dir} --enable-lora --lora-modules movie-sentiment={summary['adapter_dir']}""")


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(Path(sys.argv[1]), sys.argv[2])
