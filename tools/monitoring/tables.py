"""The metric tables of the programs, as anneal-metric-tables prints them, and what their labels mean."""

import itertools
import json
import subprocess
from dataclasses import dataclass


@dataclass(frozen=True)
class Label:
    meaning: str
    # What keeps the number of its values small.
    bound: str
    # Values for an exposition that shows every metric.
    examples: tuple


LABELS = {
    "accelerator": Label("kind of slot", "cpu, gpu", ("cpu", "gpu")),
    "blame": Label("whose failure it was", "infrastructure, user, unknown", ("infrastructure", "user", "unknown")),
    "cause": Label("reason of the failure that ended a job", "as `reason`", ("NON_FINITE_LOSS",)),
    "certificate": Label("which certificate, or file of authorities", "server, client_ca, fleet_client_ca; client, ca on a worker", ("server",)),
    "code": Label("gRPC status code of the answer", "the 17 codes", ("OK", "UNAVAILABLE")),
    "display_name": Label("the job's name for people", "one a job", ("sentiment",)),
    "gpu": Label("UUID of a GPU", "the GPUs of a machine", ("GPU-8f6d0000", "GPU-8f6d0001")),
    "job_id": Label("id of a job, without `jobs/`", "series end 5 minutes after the job", ("01hf7yat00abcdefghjkmnpqrs",)),
    "kind": Label("what a process does", "prepare, train", ("prepare", "train")),
    "limit": Label("which limit", "key_request_rate, project_request_rate, project_streams, project_uploads, project_storage, "
                   "project_jobs, failed_authentication_rate",
                   ("key_request_rate", "project_uploads")),
    "method": Label("gRPC method, or how a job trains", "the API's methods, unknown for others; lora, full", ("anneal.v1.FineTuningService/CreateJob",)),
    "model": Label("the base model as the user named it", "one a job", ("models/tiny",)),
    "outcome": Label("how a process ended", "ok, failed, killed", ("ok", "failed", "killed")),
    "phase": Label("part of a training step, or what else a trainer does",
                   "fetch, forward, backward, reduce, update, evaluate, load", ("fetch", "forward", "backward", "reduce", "update")),
    "place": Label("what a program looks at: folders by what it keeps there, or other things of its machine",
                   "catalog, storage, state, certificates, gpus", ("storage",)),
    "program": Label("name of the program", "one a process", ("anneal-worker",)),
    "rank": Label("number of a trainer within its job", "the job's slots; end with job_id", ("0", "1")),
    "reason": Label("why a job ended", "the first 40 reasons since the start; others are OTHER", ("NON_FINITE_LOSS",)),
    "resource": Label("what a job waits for", "prepare_slot, slots", ("prepare_slot", "slots")),
    "state": Label("state of a job, worker or task", "the states", ("RUNNING",)),
    "use": Label("whether a slot is in use, or what it did",
                 "free and taken; busy and free on a worker; training, idle, free, redone, lost", ("free", "taken")),
    "version": Label("version of the program", "one a process", ("0.1.0",)),
    "worker": Label("name of a worker", "the fleet; ends when the worker has left, or was lost for a day", ("g1", "g2")),
}

# Labels whose values are a known few.
VALUES = {
    "accelerator": {"cpu", "gpu"},
    "blame": {"infrastructure", "user", "unknown"},
    "certificate": {"server", "client_ca", "fleet_client_ca", "client", "ca"},
    "code": {"OK", "CANCELLED", "UNKNOWN", "INVALID_ARGUMENT", "DEADLINE_EXCEEDED", "NOT_FOUND", "ALREADY_EXISTS", "PERMISSION_DENIED",
             "RESOURCE_EXHAUSTED", "FAILED_PRECONDITION", "ABORTED", "OUT_OF_RANGE", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE",
             "DATA_LOSS", "UNAUTHENTICATED"},
    "kind": {"prepare", "train"},
    "limit": {"key_request_rate", "project_request_rate", "project_streams", "project_uploads", "project_storage",
              "project_jobs", "failed_authentication_rate"},
    "outcome": {"ok", "failed", "killed"},
    "phase": {"fetch", "forward", "backward", "reduce", "update", "evaluate", "load"},
    "place": {"catalog", "storage", "state", "certificates", "gpus"},
    "program": {"anneal-coordinator", "anneal-worker"},
    "resource": {"prepare_slot", "slots"},
    "use": {"free", "taken", "busy", "training", "idle", "redone", "lost"},
}

# By the end of the name; the first that fits.
UNITS = {
    "_timestamp_seconds": "seconds since 1970", "_seconds": "seconds", "_seconds_total": "seconds", "_bytes": "bytes",
    "_ratio": "0 to 1", "_tokens_total": "tokens", "_tokens_per_second": "tokens / second", "_loss": "nats", "_loss_sum_total": "nats",
    "_celsius": "degrees Celsius", "_watts": "watts",
}

# Numbers of things, and what is 0 or 1: names that say what they count. Another name is refused, lest a unit that UNITS lacks
# becomes a number of things.
COUNTED = (
    "_info", "_up", "_state", "_connected", "_epoch", "_incarnation", "_step", "_steps", "_steps_total", "_grad_norm",
    "_learning_rate", "_jobs", "_slots", "_slots_wanted", "_spares", "_tasks", "_workers", "_open_calls", "_attempts_total",
    "_checkpoints_total", "_ended_total", "_ends_total", "_errors_total", "_failed_total", "_failures_total", "_refusals_total",
    "_requests_total", "_restarts_total", "_turns_total",
)


def unit_of(name):
    """The unit that a metric's name says; "1" for numbers of things. Fails for a name whose end it does not know."""
    unit = next((unit for suffix, unit in UNITS.items() if name.endswith(suffix)), None)
    if unit is None and not name.endswith(COUNTED):
        raise ValueError(f"{name}: its unit is not known; end its name with one of {sorted(UNITS)}, or add to UNITS or COUNTED")
    return unit or "1"


def load(program):
    """{program: [{name, type, help, labels}]} from anneal-metric-tables."""
    return json.loads(subprocess.run([program], capture_output=True, text=True, check=True).stdout)


def by_name(tables):
    return {metric["name"]: metric for metrics in tables.values() for metric in metrics}


def sample_names(tables):
    """Names as they occur in a scrape: a histogram has three."""
    names = set()
    for name, metric in by_name(tables).items():
        names |= {name + end for end in ("_bucket", "_sum", "_count")} if metric["type"] == "histogram" else {name}
    return names


def exposition(tables, tick):
    """A scrape with every metric of the tables and every example label; counters start at 0 and grow by 1 a tick."""
    lines = []
    for name, metric in sorted(by_name(tables).items()):
        lines += [f"# HELP {name} {metric['help']}", f"# TYPE {name} {metric['type']}"]
        for values in itertools.product(*(LABELS[label].examples for label in metric["labels"])):
            pairs = [f'{label}="{value}"' for label, value in zip(metric["labels"], values)]
            def sample(suffix, value, *more):
                labels = ",".join([*pairs, *more])
                lines.append(f"{name}{suffix}{{{labels}}} {value}")
            if metric["type"] == "histogram":
                for bound in ("0.008", "0.512", "+Inf"):
                    sample("_bucket", tick, f'le="{bound}"')
                sample("_sum", tick * 0.005)
                sample("_count", tick)
            else:
                sample("", tick if metric["type"] == "counter" else 1)
    return "\n".join(lines) + "\n"
