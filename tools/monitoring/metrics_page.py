"""docs/metrics.md, from the metric tables."""

import tables

HEAD = """# Metrics

Made by `tools/monitoring/generate` from the tables in the code; do not edit.

Each program serves its metrics in Prometheus' text format at `/metrics` of its admin address (`--admin-listen`; by default port 7445
for the coordinator, 7446 for a worker). `anneal_job_*` are the coordinator's: one series a job, but for `anneal_job_state`, which has
one for each state that the job has been in, and `anneal_job_queue_wait_seconds`, which is about all jobs. `anneal_rank_*` are the
workers', one series a trainer, or one for each of its phases.

Series of a job begin when a worker first has it, to prepare its data or to train; until then it shows only in sums, as `anneal_jobs`.
One that ends before that has `anneal_job_end_info` alone. `anneal_job_remaining_seconds` and `anneal_job_tokens_per_second` end when
the job leaves RUNNING, the coordinator's others 5 minutes after the job, and the workers' 5 minutes after the trainer, so that the
last values are scraped.

Totals count from the start of the program that shows them; `rate` and `increase` see through restarts. A total of a job begins at 0
when it first gets trainers, and so does one without labels, or with `blame`, `outcome` or `limit`, when its program starts, and
`anneal_jobs_ended_total` for each reason of a failure: their first event is a rise. Others, as those by `method` and `code`, by `rank`
or by `gpu`, begin with their first event or value, which `increase` does not see.

`anneal_job_info` carries a job's names for joins:
`anneal_job_train_loss * on (job_id) group_left (display_name) anneal_job_info`.

[monitoring.md](monitoring.md) says how to scrape, alert and draw them.
"""


def cell(text):
    return text.replace("|", "\\|")


def page(all_tables):
    lines = [HEAD]
    for program, metrics in sorted(all_tables.items()):
        lines += [f"## {program}", "", "| Name | Type | Unit | Labels | Meaning |", "| --- | --- | --- | --- | --- |"]
        for metric in metrics:
            name = metric["name"]
            labels = ", ".join(f"`{label}`" for label in metric["labels"])
            lines.append(f"| `{name}` | {metric['type']} | {tables.unit_of(name)} | {labels} | {cell(metric['help'])} |")
        lines.append("")
    used = {label for metrics in all_tables.values() for metric in metrics for label in metric["labels"]}
    lines += ["## Labels", "", "| Label | Meaning | Values are bounded by |", "| --- | --- | --- |"]
    lines += [f"| `{name}` | {cell(tables.LABELS[name].meaning)} | {cell(tables.LABELS[name].bound)} |" for name in sorted(used)]
    return "\n".join(lines) + "\n"
