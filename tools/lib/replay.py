"""Runs a finished job again with transformers, peft and torch's AdamW, on the rows that its ledger names, and compares.

Nothing of Anneal's code takes part: the model, the adapter, autograd, clipping and the optimizer are theirs, one unpacked row at
a time. From Anneal come the ledger (rows and learning rate of each step), the prepared rows, the resolved settings, and the
definition of its keyed random numbers (philox.py).
"""

import argparse
import hashlib
import json
import math
import os
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file

EXIT_DIFFERENT, EXIT_BAD_INPUT = 1, 2
# fp32: both sides add the same products in other orders. bf16: eight bits a product, where the replay still has 24.
TOLERANCE = {"FP32": 1e-3, "BF16": 5e-2}
TINY = 1e-30

DESCRIPTION = """\
Runs a finished job again with transformers, peft and torch's AdamW, on the rows that the job's ledger names, and prints both
runs' loss and gradient norm of every step, and how far the trained values lie apart.

JOB_OUTPUT is the folder outputs/<job> of the storage root, or what `anneal download` made of it. Below the storage root the base
model and the prepared rows are found by themselves; elsewhere name them.
"""
EPILOG = "exit code: 0 the runs agree, 1 they differ, 2 something is missing or does not belong together"


class BadInput(Exception):
    pass


@dataclass
class Job:
    output: Path
    ledger: list
    settings: dict  # of the resolved job's `training`
    primary: Path   # adapter/ or model/
    base_model: Path
    train_data: Path

    @property
    def precision(self):
        return self.settings["precision"].removeprefix("PRECISION_")


def need(path, why):
    if not path.exists():
        raise BadInput(f"{path} is missing: {why}")
    return path


def check_manifest(output):
    """The files that are read here are those that the job published."""
    manifest = json.loads(need(output / "manifest.json", "this is not the output of a finished job").read_text())
    for entry in manifest["files"]:
        if not entry["path"].startswith(("ledger", "resolved_job", "adapter/", "model/")):
            continue
        with open(need(output / entry["path"], "manifest.json lists it; was the download complete?"), "rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        if digest != entry["sha256"]:
            raise BadInput(f"{output / entry['path']} was changed after the job published it (see manifest.json)")


def find_base_model(output, name):
    """`name` is the resolved job's model: file:///folder, models/ID or jobs/ID/artifacts/model."""
    if name.startswith("file://"):
        return Path(name.removeprefix("file://"))
    root = output.parent.parent
    kind, _, rest = name.partition("/")
    if (root / "FORMAT").exists() and kind == "jobs":
        job, _, path = rest.partition("/artifacts/")
        return root / "outputs" / job / path
    found = sorted(root.glob(f"models/*/{rest}")) if (root / "FORMAT").exists() and kind == "models" else []
    if len(found) != 1:
        raise BadInput(f"the job was trained from '{name}': give its Hugging Face folder with --model")
    return found[0]


def read_job(arguments):
    output = arguments.output.resolve()
    need(output, "give the output folder of a job")
    check_manifest(output)
    spec = json.loads((output / "resolved_job.json").read_text()).get("spec", {})
    if "training" not in spec:
        raise BadInput(f"{output / 'resolved_job.json'} lacks the job's settings")
    ledger = [json.loads(line) for line in (output / "ledger.jsonl").read_text().splitlines()]
    if not ledger:
        raise BadInput(f"{output / 'ledger.jsonl'} has no steps")
    primary = output / "adapter" if (output / "adapter").is_dir() else need(output / "model", "nothing was trained")
    data = arguments.data or output.parent.parent / "blobs" / "prepared" / output.name / "train.safetensors"
    return Job(output=output, ledger=ledger, settings=spec["training"], primary=primary,
               base_model=need(arguments.model or find_base_model(output, spec["model"]), "give the base model with --model"),
               train_data=need(data, "give the job's prepared training rows with --data"))


def read_rows(path):
    """[(token ids, whether each counts for the loss)] of a prepared data set."""
    try:
        arrays = load_file(path)
        starts, ids, weights = (arrays[name] for name in ("example_offsets", "token_ids", "loss_weight"))
    except Exception as error:  # safetensors has no exception type of its own for every fault
        raise BadInput(f"{path} is not a prepared data set: {error!r}") from error
    return [(ids[a:b].astype(np.int64), weights[a:b].astype(bool)) for a, b in zip(starts[:-1], starts[1:])]


def rows_of_step(entry, rows):
    chosen = [row for shard in entry["rows"] for row in shard]
    if max(chosen, default=0) >= len(rows):
        raise BadInput(f"step {entry['step']} used row {max(chosen)} and the data has {len(rows)}: it is not the job's data")
    supervised = sum(int(rows[row][1].sum()) for row in chosen)
    if supervised != entry["supervised_tokens"]:
        raise BadInput(f"step {entry['step']} trained on {entry['supervised_tokens']} tokens and these rows have {supervised}: "
                       "they are not the job's data")
    return chosen


def relative(ours, theirs):
    return abs(ours - theirs) / max(abs(theirs), TINY)


def compare_values(exported, replayed):
    """|exported - replayed| / |replayed| over all trained values, and the same of the tensor that is worst."""
    if set(exported) != set(replayed):
        odd = sorted(set(exported) ^ set(replayed))
        raise BadInput(f"the exported tensors are not those that were replayed: {', '.join(odd[:3])}")
    squares, norms, worst = 0.0, 0.0, (0.0, "")
    for name, values in replayed.items():
        values = values.detach().double()
        square, norm = (exported[name].double() - values).square().sum().item(), values.square().sum().item()
        squares, norms = squares + square, norms + norm
        worst = max(worst, (math.sqrt(square / max(norm, TINY)), name))
    return {"values_difference": math.sqrt(squares / max(norms, TINY)), "worst_tensor": worst[1],
            "worst_tensor_difference": worst[0]}


def load(job, threads):
    os.environ.setdefault("HF_HUB_OFFLINE", "1")  # everything is local
    import replayed_run  # and with it torch: seconds that a mistake on the command line need not wait for
    import torch
    import transformers
    torch.set_num_threads(threads)
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    try:
        return replayed_run.ReplayedRun(job.base_model, job.primary, job.settings)
    except (OSError, ValueError) as error:  # what transformers and peft raise for folders that do not hold what they want
        raise BadInput(f"{job.base_model} or {job.primary} does not load: {error}") from error


def run(arguments):
    job = read_job(arguments)
    tolerance = arguments.tolerance or TOLERANCE[job.precision]
    rows = read_rows(job.train_data)
    steps = job.ledger[:arguments.steps]
    rows_by_step = [rows_of_step(entry, rows) for entry in steps]
    replay = load(job, arguments.threads)
    print(f"{'step':>6} {'rows':>5} {'tokens':>7} {'learning rate':>13} {'loss':>11} {'replayed':>11} {'differs':>8} "
          f"{'grad norm':>11} {'replayed':>11} {'differs':>8}")
    table = []
    for entry, chosen in zip(steps, rows_by_step):
        loss, norm = replay.step(entry, {row: rows[row] for row in chosen})
        line = {"step": entry["step"], "loss": entry["loss"], "replayed_loss": loss,
                "loss_difference": relative(entry["loss"], loss), "grad_norm": entry["grad_norm"],
                "replayed_grad_norm": norm, "grad_norm_difference": relative(entry["grad_norm"], norm)}
        table.append(line)
        print(f"{entry['step']:>6} {sum(map(len, entry['rows'])):>5} {entry['supervised_tokens']:>7} "
              f"{entry['learning_rate']:>13.4e} {entry['loss']:>11.6f} {loss:>11.6f} {line['loss_difference']:>8.1e} "
              f"{entry['grad_norm']:>11.6f} {norm:>11.6f} {line['grad_norm_difference']:>8.1e}", flush=True)
    summary = {"steps": len(table), "of_steps": len(job.ledger), "tolerance": tolerance,
               "largest_loss_difference": max(line["loss_difference"] for line in table),
               "largest_grad_norm_difference": max(line["grad_norm_difference"] for line in table)}
    if len(steps) == len(job.ledger):
        summary |= compare_values(replay.exported(), replay.values())
    summary["agrees"] = all(difference <= tolerance for difference in (  # not where one is no number
        *(line["loss_difference"] for line in table), summary.get("values_difference", 0.0)))
    report(summary, job)
    if arguments.json:
        arguments.json.write_text(json.dumps({**summary, "table": table}, indent=1) + "\n")
    return 0 if summary["agrees"] else EXIT_DIFFERENT


def report(summary, job):
    print(f"\n{summary['steps']} of {summary['of_steps']} steps. Largest relative difference of a loss "
          f"{summary['largest_loss_difference']:.1e}, of a gradient norm {summary['largest_grad_norm_difference']:.1e}.")
    if "values_difference" in summary:
        print(f"{job.primary.name}/ lies {summary['values_difference']:.1e} of its norm from the replay "
              f"(worst tensor {summary['worst_tensor_difference']:.1e}: {summary['worst_tensor']}).")
    else:
        print("The trained values were not compared: that takes all steps.")
    if summary["agrees"]:
        print(f"The runs agree within {summary['tolerance']:g}.")
    else:
        print(f"The runs DIFFER by more than {summary['tolerance']:g}. If the first step differs already, --model or --data may "
              "not be what the job was trained on.")


def parse(argv):
    parser = argparse.ArgumentParser(prog="tools/replay", description=DESCRIPTION, epilog=EPILOG,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", metavar="JOB_OUTPUT", type=Path, help="the folder with ledger.jsonl")
    parser.add_argument("--model", type=Path, metavar="DIR", help="the base model as a Hugging Face folder")
    parser.add_argument("--data", type=Path, metavar="FILE", help="the job's prepared rows (train.safetensors)")
    parser.add_argument("--steps", type=int, metavar="N", help="only the first N steps")
    parser.add_argument("--tolerance", type=float, metavar="X",
                        help="relative, of each loss and of the trained values (default: "
                        + ", ".join(f"{value:g} for {name}" for name, value in TOLERANCE.items()) + ")")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), metavar="N", help="default: all cores")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the table and the summary here")
    arguments = parser.parse_args(argv)
    if arguments.steps is not None and arguments.steps < 1:
        parser.error("--steps must be at least 1")
    return arguments


def main(argv):
    arguments = parse(argv)
    try:
        return run(arguments)
    except BadInput as error:
        print(f"tools/replay: {error}", file=sys.stderr)
        return EXIT_BAD_INPUT


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
