"""What the dashboards show. Change them here and run tools/monitoring/generate."""

from panels import Dashboard, Query, bars, graph, stat, table

# Names of jobs beside their numbers.
NAMED = "* on (job_id) group_left (display_name) max by (job_id, display_name) (anneal_job_info)"
JOB = 'job_id=~"$job_id"'
AT = 'instance=~"$instance"'
# States in which a job holds slots or a prepare slot, as AnnealJobStalled has them.
HOLDING = "PREPARING|STARTING|RUNNING|PAUSING|PREEMPTING|EXPORTING|CANCELLING"
# Of methods that are quick by design; the recording rules say which are not.
QUICK = 'method!~".*/(CheckFleet|CheckJob|DeleteModel|GetStorage|ImportModel)"'


def of_jobs(metric, legend="{{display_name}}"):
    """A value of each chosen job, with its name."""
    return Query(f"max by (job_id) ({metric}{{{JOB}, {AT}}}) {NAMED}", legend)


def while_in(states):
    """What holds of a job while it is in one of these states."""
    return f'and on (job_id) anneal_job_state{{state=~"{states}"}} == 1'


def events_of(metric, legend="{{display_name}}"):
    """How often something happened to each chosen job."""
    return Query(f"sum by (job_id) (increase({metric}{{{JOB}, {AT}}}[$__rate_interval])) {NAMED}", legend)


def rate_of(metric, by, *matchers):
    return f"sum by ({by}) (rate({metric}{{{', '.join(matchers)}}}[$__rate_interval]))"


def quantile(q, metric, by, *matchers):
    return f"histogram_quantile({q}, {rate_of(metric + '_bucket', by + ', le', *matchers)})"


TOKENS = graph("Tokens a second", "Tokens trained, by job.", "short",
               Query(f"{rate_of('anneal_job_tokens_total', 'job_id', JOB, AT)} {NAMED}", "{{display_name}}"))
STATES = graph("State", "The state of each job that a worker has had. Jobs by state, on Fleet, counts those that wait for their first, too.",
               "short", Query(f"(max by (job_id, state) (anneal_job_state{{{JOB}, {AT}}}) == 1) {NAMED}", "{{display_name}} {{state}}"),
               stacked=True)
RESTARTS = bars("Restarts", "Attempts after the first, and attempts that failed.", "short",
                events_of("anneal_job_restarts_total", "starts {{display_name}}"),
                events_of("anneal_job_failed_attempts_total", "failures {{display_name}}"))
ROOM = graph("Room left", "Part of each file system that is free, by what is kept there.", "percentunit",
             Query(f"anneal_file_system_free_bytes{{{AT}}} / anneal_file_system_size_bytes{{{AT}}}", "{{place}} {{instance}}"))

FLEET = Dashboard("anneal-fleet", "Anneal / Fleet", "Workers, slots and jobs at a glance.", [
    ("Now", [
        stat("Workers", "Workers that the coordinator hears.", "short", f"sum(anneal_workers{{state=~\"READY|DRAINING|EXCLUDED\", {AT}}})"),
        stat("Workers lost", "Workers that it has not heard for longer than their lease.", "short",
             f"sum(anneal_workers{{state=\"LOST\", {AT}}})"),
        stat("Slots in use", "Part of the connected workers' slots that jobs hold.", "percentunit",
             f"sum(anneal_slots{{use=\"taken\", {AT}}}) / sum(anneal_slots{{{AT}}})"),
        stat("Jobs running", "Jobs whose trainers take steps.", "short", f"sum(anneal_jobs{{state=\"RUNNING\", {AT}}})"),
        stat("Jobs waiting", "Jobs that wait for a prepare slot or slots.", "short",
             f"sum(anneal_jobs{{state=~\"PENDING|QUEUED|RECOVERING\", {AT}}})"),
        stat("Longest wait", "How long the job that waits longest has waited.", "s", f"max(anneal_jobs_oldest_wait_seconds{{{AT}}})"),
    ]),
    ("Workers and slots", [
        graph("Workers by state", "READY take work; DRAINING finish theirs; EXCLUDED get no trainers for a while, since too many have died "
              "there; LOST are not heard.", "short",
              Query(f"sum by (state) (anneal_workers{{{AT}}})", "{{state}}"), stacked=True),
        graph("Slots by use", "Slots of connected workers.", "short",
              Query(f"sum by (accelerator, use) (anneal_slots{{{AT}}})", "{{accelerator}} {{use}}"), stacked=True),
        graph("Slots wanted", "Slots that jobs want and do not have: jobs that wait, are being prepared or recover.", "short",
              Query(f"sum by (accelerator) (anneal_slots_wanted{{{AT}}})", "{{accelerator}}")),
        table("Workers", "1 = heard, 0 = lost.", "short", Query(f"max by (worker) (anneal_worker_up{{{AT}}})")),
        table("Processes on workers", "Tasks by state, on each worker.", "short",
              Query(f"sum by (instance, state) (anneal_worker_tasks{{{AT}}})")),
    ]),
    ("Jobs", [
        graph("Jobs by state", "All jobs that the catalog holds, but those that have ended.", "short",
              Query(f"sum by (state) (anneal_jobs{{state!~\"SUCCEEDED|FAILED|CANCELLED\", {AT}}})", "{{state}}"), stacked=True),
        graph("Wait", "How long the job that waits longest has waited.", "s",
              Query(f"max by (resource) (anneal_jobs_oldest_wait_seconds{{{AT}}})", "for a {{resource}}")),
        TOKENS,
        graph("Slots by job", "Slots that each job's trainers hold.", "short", of_jobs("anneal_job_slots"), stacked=True),
        graph("Progress", "Part of each job's steps that is done.", "percentunit",
              Query(f"max by (job_id) (anneal_job_step{{{JOB}, {AT}}} / anneal_job_total_steps{{{JOB}, {AT}}}) {NAMED}",
                    "{{display_name}}")),
        ROOM,
    ]),
])

JOBS = Dashboard("anneal-job", "Anneal / Job", "How the training of a job goes.", [
    ("Now", [
        stat("Step", "Finished optimizer steps.", "short", of_jobs("anneal_job_step")),
        stat("Of steps", "Steps that the job will make.", "short", of_jobs("anneal_job_total_steps")),
        stat("Time left", "Until the last step, at the present speed.", "s", of_jobs("anneal_job_remaining_seconds")),
        stat("Training loss", "Of the last step, in nats.", "short", of_jobs("anneal_job_train_loss"), minimum=None),
        stat("Validation loss", "Of the last evaluation, in nats.", "short", of_jobs("anneal_job_validation_loss"), minimum=None),
        stat("Since progress", "Time since a step, an evaluation, or a change of state or phase, of jobs that hold slots.", "s",
             Query(f"(time() - max by (job_id) (anneal_job_last_progress_timestamp_seconds{{{JOB}, {AT}}}) {while_in(HOLDING)}) {NAMED}",
                   "{{display_name}}")),
    ]),
    ("Learning", [
        graph("Training loss", "The exact mean over the supervised tokens of each interval, in nats.", "short",
              Query(f"{rate_of('anneal_job_loss_sum_total', 'job_id', JOB, AT)} / "
                    f"({rate_of('anneal_job_loss_tokens_total', 'job_id', JOB, AT)} > 0) {NAMED}", "{{display_name}}"), minimum=None),
        graph("Training and validation loss", "Validation that rises while training falls is overfitting.", "short",
              of_jobs("anneal_job_train_loss", "training {{display_name}}"),
              of_jobs("anneal_job_validation_loss", "validation {{display_name}}"), minimum=None),
        graph("Gradient norm", "Before clipping. Growth over many steps means a learning rate that is too high.", "short",
              of_jobs("anneal_job_grad_norm"), logarithmic=True, minimum=None),
        graph("Learning rate", "Of the last step.", "sci", of_jobs("anneal_job_learning_rate")),
        graph("Mean loss of 10 minutes", "What the alert AnnealTrainingDiverges looks at.", "short",
              Query(f"job_id:anneal_job_loss:mean10m{{{JOB}}} {NAMED}", "{{display_name}}"), minimum=None),
        STATES,
    ]),
    ("Speed", [
        TOKENS,
        graph("Phases of a step", "Seconds a second that a job's ranks spend in each phase, on average; `reduce` holds waits for others.",
              "percentunit",
              Query(f"avg by (job_id, phase) (rate(anneal_rank_step_seconds_total{{{JOB}}}[$__rate_interval])) {NAMED}",
                    "{{display_name}} {{phase}}"), stacked=True),
        graph("Time left", "Until the last step, at the present speed.", "s", of_jobs("anneal_job_remaining_seconds")),
    ]),
    ("Safety", [
        RESTARTS,
        bars("Steps done again", "Steps lost to restarts.", "short", events_of("anneal_job_redone_steps_total")),
        graph("Checkpoint age", "What would be lost by a crash now, of jobs that run.", "s",
              Query(f"(time() - max by (job_id) (anneal_job_last_checkpoint_timestamp_seconds{{{JOB}, {AT}}}) {while_in('RUNNING')}) "
                    f"{NAMED}", "{{display_name}}")),
        bars("Checkpoints", "Written, failed, and found damaged.", "short",
             events_of("anneal_job_checkpoints_total", "written {{display_name}}"),
             events_of("anneal_job_checkpoint_failures_total", "failed {{display_name}}"),
             events_of("anneal_job_damaged_checkpoints_total", "damaged {{display_name}}")),
        graph("Checkpoint stall", "Seconds a second for which steps stand still for checkpoints.", "percentunit",
              Query(f"max by (job_id) (rate(anneal_rank_checkpoint_stall_seconds_total{{{JOB}}}[$__rate_interval])) {NAMED}",
                    "{{display_name}}")),
    ]),
])

RANKS = Dashboard("anneal-ranks", "Anneal / Ranks and stragglers", "Which trainer holds up the others, and in what.", [
    ("Stragglers", [
        graph("Work", "Seconds a second that a rank computes or fetches; the rest of its time it exchanges or waits.", "percentunit",
              Query(f"sum by (job_id, rank) (rate(anneal_rank_step_seconds_total{{phase=~\"fetch|forward|backward|update\", {JOB}, {AT}}}"
                    f"[$__rate_interval])) {NAMED}", "{{display_name}} rank {{rank}}")),
        graph("Exchange and wait", "Seconds a second in `reduce`. The rank that waits least is the one that the others wait for.",
              "percentunit",
              Query(f"sum by (job_id, rank) (rate(anneal_rank_step_seconds_total{{phase=\"reduce\", {JOB}, {AT}}}[$__rate_interval])) "
                    f"{NAMED}", "{{display_name}} rank {{rank}}")),
        graph("Against the average", "Each rank's work divided by the average of its job; above 1.25 the alert AnnealRankStraggling fires.",
              "short",
              Query(f"job_id_rank:anneal_rank_work_seconds:rate5m{{{JOB}}} / on (job_id) group_left () "
                    f"avg by (job_id) (job_id_rank:anneal_rank_work_seconds:rate5m{{{JOB}}}) {NAMED}",
                    "{{display_name}} rank {{rank}}")),
    ]),
    ("Ranks", [
        graph("Steps", "Steps when each rank last reported: they should be one line.", "short",
              Query(f"max by (job_id, rank) (anneal_rank_step{{{JOB}, {AT}}}) {NAMED}", "{{display_name}} rank {{rank}}")),
        graph("Time in phase", "How long each rank has been in its present phase; one that hangs grows without end.", "s",
              Query(f"max by (job_id, rank) (anneal_rank_phase_age_seconds{{{JOB}, {AT}}}) {NAMED}", "{{display_name}} rank {{rank}}")),
        graph("Tokens a second", "Tokens that each rank computes with.", "short",
              Query(f"{rate_of('anneal_rank_tokens_total', 'job_id, rank', JOB, AT)} {NAMED}", "{{display_name}} rank {{rank}}")),
        graph("Phases", "Seconds a second in each phase, by rank.", "percentunit",
              Query(f"sum by (job_id, rank, phase) (rate(anneal_rank_step_seconds_total{{{JOB}, {AT}}}[$__rate_interval])) {NAMED}",
                    "{{display_name}} rank {{rank}} {{phase}}"), stacked=True),
        graph("Memory", "Resident memory of each trainer.", "bytes",
              Query(f"max by (job_id, rank) (anneal_rank_resident_bytes{{{JOB}, {AT}}}) {NAMED}", "{{display_name}} rank {{rank}}")),
        graph("Loading and evaluating", "Seconds a second outside of steps, by rank.", "percentunit",
              Query(f"sum by (job_id, rank, phase) (rate(anneal_rank_step_seconds_total{{phase=~\"load|evaluate\", {JOB}, {AT}}}"
                    f"[$__rate_interval])) {NAMED}", "{{display_name}} rank {{rank}} {{phase}}")),
    ]),
])

CONTROL_PLANE = Dashboard("anneal-control-plane", "Anneal / Control plane", "The coordinator: its calls, its loop, its certificates.", [
    ("API", [
        graph("Calls a second", "Finished calls, by method.", "reqps",
              Query(rate_of("anneal_rpc_requests_total", "method", AT), "{{method}}")),
        graph("Errors by method and code", "Calls that did not end OK.", "reqps",
              Query(rate_of("anneal_rpc_requests_total", "method, code", 'code!="OK"', AT), "{{method}} {{code}}"), live=False),
        graph("Errors of the service's own", "Part of the calls; the objective is 0.1 %.", "percentunit",
              Query(f"sum(rate(anneal_rpc_failures_total{{{AT}}}[$__rate_interval])) / "
                    f"(sum(rate(anneal_rpc_requests_total{{{AT}}}[$__rate_interval])) > 0)", "errors")),
        graph("Duration", "Of unary calls: half, and 99 of 100, are quicker.", "s",
              Query(quantile(0.5, "anneal_rpc_duration_seconds", "method", AT), "p50 {{method}}"),
              Query(quantile(0.99, "anneal_rpc_duration_seconds", "method", AT), "p99 {{method}}")),
        graph("Slow calls", "Part of the unary calls that took longer than 512 ms, those that are slow by design left out; the objective "
              "is 1 %.", "percentunit",
              Query(f"1 - sum(rate(anneal_rpc_duration_seconds_bucket{{le=\"0.512\", {QUICK}, {AT}}}[$__rate_interval])) / "
                    f"(sum(rate(anneal_rpc_duration_seconds_count{{{QUICK}, {AT}}}[$__rate_interval])) > 0)", "slow")),
        graph("Open calls", "Calls under way: watchers and workers' streams too.", "short",
              Query(f"sum by (method) (anneal_rpc_open_calls{{{AT}}})", "{{method}}")),
    ]),
    ("Control loop", [
        graph("Turns", "Duration of the loop's turns, commit included.", "s",
              Query(quantile(0.5, "anneal_control_loop_turn_seconds", "instance", AT), "p50"),
              Query(quantile(0.99, "anneal_control_loop_turn_seconds", "instance", AT), "p99")),
        bars("Turns dropped", "Turns that could not be committed.", "short",
             Query(f"sum by (instance) (increase(anneal_control_loop_failed_turns_total{{{AT}}}[$__rate_interval]))", "{{instance}}")),
        bars("Jobs ended by reason", "State and reason of jobs that ended.", "short",
             Query(f"sum by (state, reason) (increase(anneal_jobs_ended_total{{{AT}}}[$__rate_interval]))", "{{state}} {{reason}}")),
        bars("Jobs failed by blame", "Whose failures they were.", "short",
             Query(f"sum by (blame) (increase(anneal_jobs_failed_total{{{AT}}}[$__rate_interval]))", "{{blame}}")),
        graph("Wait for slots", "Of the jobs that started in as long a time as is shown: half, and 9 of 10, waited less.", "s",
              *(Query(f"histogram_quantile({q}, sum by (le) (rate(anneal_job_queue_wait_seconds_bucket{{{AT}}}[$__range]))) >= 0",
                      f"p{q * 100:.0f}") for q in (0.5, 0.9))),
        RESTARTS,
        bars("Starts", "Starts of the coordinator, and of each worker's daemon.", "short",
             Query(f"changes(anneal_coordinator_epoch{{{AT}}}[$__rate_interval])", "coordinator"),
             Query(f"changes(anneal_worker_incarnation{{{AT}}}[$__rate_interval])", "{{instance}}")),
    ]),
    ("Programs", [
        graph("Coordinator heard", "1 while a worker hears the coordinator.", "short",
              Query(f"anneal_worker_coordinator_connected{{{AT}}}", "{{instance}}")),
        graph("Certificates", "Time for which each is still valid.", "s",
              Query(f"anneal_tls_certificate_expiry_timestamp_seconds{{{AT}}} - time()", "{{certificate}} {{instance}}"), minimum=None),
        graph("Age of measurements", "Since a program last saw its file systems, certificates and GPUs; it looks every 15 seconds.", "s",
              Query(f"time() - anneal_sample_last_success_timestamp_seconds{{{AT}}}", "{{place}} {{instance}}")),
        table("Versions", "What runs where.", "short", Query(f"max by (program, version, instance) (anneal_build_info{{{AT}}})")),
    ]),
])

STORAGE = Dashboard("anneal-storage", "Anneal / Data and storage", "How fast data comes in, and where it is kept.", [
    ("Data", [
        graph("Reading", "Part of each job's step time that goes to reading and packing rows.", "percentunit",
              Query(f"job_id_phase:anneal_rank_step_seconds:ratio5m{{phase=\"fetch\", {JOB}}} {NAMED}", "{{display_name}}")),
        graph("Supervised tokens", "Part of the trained tokens that count for the loss.", "percentunit",
              Query(f"{rate_of('anneal_job_supervised_tokens_total', 'job_id', JOB, AT)} / "
                    f"({rate_of('anneal_job_tokens_total', 'job_id', JOB, AT)} > 0) {NAMED}", "{{display_name}}")),
        graph("Wait for a prepare slot", "How long the job that waits longest for its data's check has waited.", "s",
              Query(f"max(anneal_jobs_oldest_wait_seconds{{resource=\"prepare_slot\", {AT}}})", "longest")),
    ]),
    ("Storage", [
        ROOM,
        graph("Free", "Bytes free on each file system.", "bytes", Query(f"anneal_file_system_free_bytes{{{AT}}}", "{{place}} {{instance}}")),
        graph("Size", "Size of each file system.", "bytes", Query(f"anneal_file_system_size_bytes{{{AT}}}", "{{place}} {{instance}}")),
    ]),
    ("Checkpoints", [
        graph("Size", "Of each job's newest checkpoint.", "bytes", of_jobs("anneal_job_checkpoint_bytes")),
        graph("Time to write", "Of each job's newest checkpoint, in the background.", "s",
              of_jobs("anneal_job_checkpoint_write_seconds")),
        graph("Interval asked for", "Training time between two checkpoints, by job.", "s",
              of_jobs("anneal_job_checkpoint_interval_seconds")),
    ]),
])

GPUS = Dashboard("anneal-gpus", "Anneal / GPUs and faults", "What the GPUs do, and what breaks on the nodes.", [
    ("GPUs", [
        graph("Busy", "Part of the time in which a kernel ran.", "percentunit",
              Query(f"anneal_gpu_busy_ratio{{{AT}}}", "{{instance}} {{gpu}}"), live=False),
        graph("Memory in use", "Part of each GPU's memory.", "percentunit",
              Query(f"anneal_gpu_used_memory_bytes{{{AT}}} / anneal_gpu_memory_bytes{{{AT}}}", "{{instance}} {{gpu}}"), live=False),
        graph("Power", "Power that each GPU draws.", "watt", Query(f"anneal_gpu_power_watts{{{AT}}}", "{{instance}} {{gpu}}"), live=False),
        graph("Temperature", "Hot GPUs slow themselves down.", "celsius",
              Query(f"anneal_gpu_temperature_celsius{{{AT}}}", "{{instance}} {{gpu}}"), live=False),
        TOKENS,
        graph("Slots in use", "Slots of each worker that hold a process.", "short",
              Query(f"anneal_worker_slots{{use=\"busy\", {AT}}}", "{{instance}}")),
    ]),
    ("Faults", [
        bars("Memory errors", "Errors that could not be corrected.", "short",
             Query(f"increase(anneal_gpu_uncorrected_errors_total{{{AT}}}[$__rate_interval])", "{{instance}} {{gpu}}"), live=False),
        graph("Driver", "1 while the NVIDIA driver answers, or none is installed.", "short",
              Query(f"anneal_gpu_driver_up{{{AT}}}", "{{instance}}")),
        bars("Processes ended", "Trainers and preparations, by how they ended.", "short",
             Query(f"sum by (kind, outcome) (increase(anneal_worker_task_ends_total{{{AT}}}[$__rate_interval]))",
                   "{{kind}} {{outcome}}")),
    ]),
])

ALL = [FLEET, JOBS, RANKS, CONTROL_PLANE, STORAGE, GPUS]
