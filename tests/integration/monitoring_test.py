"""The shipped rules and dashboards in a real Prometheus that scrapes a live service: one job trains, then a worker is killed."""

import http.server
import math
import re
import subprocess
import sys
import threading

import pytest

from mini_cluster import BIN_DIR, SOURCE_DIR, MiniCluster, stubs, wait_until
from prometheus import Prometheus

sys.path.insert(0, str(SOURCE_DIR / "tools" / "monitoring"))

import dashboards  # noqa: E402
import panels  # noqa: E402
import tables  # noqa: E402

RULES = SOURCE_DIR / "deploy" / "monitoring" / "prometheus"


class TableExporter:
    """Serves every metric of the tables, for what a healthy service without GPUs does not show."""

    def __init__(self):
        all_tables = tables.load(BIN_DIR / "anneal-metric-tables")
        ticks = iter(range(1 << 30))

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                text = tables.exposition(all_tables, next(ticks))
                # Alerts that add up over all coordinators must not count these for the real one's.
                text = re.sub(r"^(anneal_(?:jobs_failed|rpc_failures)_total(?:\{.*\})?) .*$", r"\1 0", text, flags=re.MULTILINE).encode()
                self.send_response(200)
                self.send_header("Content-Type", "text/plain; version=0.0.4")
                self.end_headers()
                self.wfile.write(text)

            def log_message(self, *_):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"127.0.0.1:{self.server.server_port}"
        self.thread = threading.Thread(target=self.server.serve_forever)
        self.thread.start()

    def close(self):
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()


def scaled_rules(folder):
    """The shipped rules with every `for` a second long. Windows of expressions stay: they fill from what there is."""
    paths = []
    for path in (RULES / "recording_rules.yml", RULES / "alerting_rules.yml"):
        paths.append(folder / path.name)
        paths[-1].write_text(re.sub(r"^( +for:) .*$", r"\1 1s", path.read_text(), flags=re.MULTILINE))
    return paths


@pytest.fixture(scope="module")
def live(tmp_path_factory, tiny):
    """(cluster, prometheus, exporter, job): a job that trains on two workers, scraped for some steps."""
    folder = tmp_path_factory.mktemp("cluster")
    pb2, job_pb2 = stubs("fine_tuning_service_pb2"), stubs("job_pb2")
    exporter = TableExporter()
    try:
        # Workers show how long the authority is good that they would check a coordinator's certificate against.
        authority = folder / "authority.pem"
        subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "90",
                        "-subj", "/CN=authority", "-keyout", "/dev/null", "-out", authority], check=True, capture_output=True)
        with MiniCluster(folder, workers=2, allowed_roots=[tiny], worker_flags=["--tls-ca-file", authority]) as cluster:
            jobs = {"anneal-coordinator": [cluster.coordinator_ports["admin"]],
                    "anneal-worker": [w.addresses()["admin"] for w in cluster.workers], "tables": [exporter.address]}
            with Prometheus(folder, jobs, scaled_rules(folder)) as prometheus:
                spec = job_pb2.JobSpec(
                    display_name="watched", model=f"file://{tiny}/model", method=job_pb2.Method(lora=job_pb2.LoraMethod(rank=4)),
                    data=job_pb2.DataSpec(train=[f"file://{tiny}/train.jsonl"], max_length=128,
                                          validation=job_pb2.ValidationSpec(files=[f"file://{tiny}/validation.jsonl"])),
                    training=job_pb2.TrainingSpec(epochs=1000, batch_size=16),
                    checkpoint=job_pb2.CheckpointSpec(every={"seconds": 1}),
                    resources=job_pb2.ResourceSpec(slots=2, accelerator=job_pb2.ResourceSpec.ACCELERATOR_CPU))
                job = cluster.jobs.CreateJob(pb2.CreateJobRequest(spec=spec))
                cluster.wait_for_state(job.name, {"RUNNING"})
                # Rules read what other rules recorded: these are the ends of the longest chains.
                ulid = job.name.removeprefix("jobs/")
                for recorded in ("anneal_job_checkpoint_write_seconds", "job_id_phase:anneal_rank_step_seconds:ratio5m", "job_id:anneal_job_loss:mean10m"):
                    wait_until(lambda name=recorded: prometheus.query(f'{name}{{job_id="{ulid}"}} > 0'), 90, f"{recorded} of the job")

                # Panels of calls divide by their rate: somebody looks at the job until it shows.
                def calls_are_counted():
                    cluster.jobs.GetJob(pb2.GetJobRequest(name=job.name))
                    return prometheus.query('sum(rate(anneal_rpc_requests_total{job="anneal-coordinator"}[15s])) > 0')

                wait_until(calls_are_counted, 60, "calls of the coordinator")
                yield cluster, prometheus, exporter, job
    finally:
        exporter.close()


def values_for(expression, job_id, instance):
    """A query of a panel or a variable as Grafana sends it."""
    expression = (expression.replace("$job_id", job_id).replace("$instance", instance)
                  .replace("$__rate_interval", "15s").replace("$__range", "15m"))
    assert "$" not in expression, expression
    return expression


def numbers(samples):
    """The values of an instant query that are numbers: NaN is what a quotient or a quantile of nothing is."""
    return [value for value in (float(sample["value"][1]) for sample in samples) if not math.isnan(value)]


def test_nan_is_no_data(live):
    _, prometheus, _, _ = live
    assert prometheus.query("vector(0) / 0") and not numbers(prometheus.query("vector(0) / 0"))


def test_every_query_of_every_dashboard_returns_data(live):
    cluster, prometheus, exporter, job = live
    targets = [cluster.coordinator_ports["admin"], *(w.addresses()["admin"] for w in cluster.workers)]
    silent = []
    for board in dashboards.ALL:
        for panel in board.panels():
            instance = "|".join(targets) if panel.live else exporter.address
            job_id = job.name.removeprefix("jobs/") if panel.live else tables.LABELS["job_id"].examples[0]
            for query in panel.queries:
                expression = values_for(query.expr, job_id, instance)
                if not numbers(prometheus.query(expression)):
                    silent.append(f"{board.title}, {panel.title}: {expression}")
    assert not silent, "\n".join(silent)


@pytest.mark.parametrize("board", dashboards.ALL, ids=lambda board: board.uid)
def test_every_variable_offers_what_there_is(live, board):
    cluster, prometheus, _, job = live
    variables = {v["name"]: v for v in panels.to_json(board)["templating"]["list"] if v["type"] == "query"}
    [names] = re.findall(r"query_result\((.*)\)$", variables["job_id"]["query"]["query"])
    labels = [sample["metric"] for sample in prometheus.query(values_for(names, "", ""))]
    # Grafana matches the expression against the samples as text.
    texts = ["{" + ",".join(f'{name}="{value}"' for name, value in sorted(found.items())) + "}" for found in labels]
    pattern = variables["job_id"]["regex"].strip("/g").replace("(?<", "(?P<")
    offered = set()
    for text in texts:
        groups = [match.groupdict() for match in re.finditer(pattern, text)]
        offered.add((next(g["text"] for g in groups if g["text"]), next(g["value"] for g in groups if g["value"])))
    assert ("watched", job.name.removeprefix("jobs/")) in offered
    [(metric, label)] = re.findall(r"label_values\((\w+), (\w+)\)", variables["instance"]["query"]["query"])
    instances = set(prometheus.get(f"label/{label}/values", **{"match[]": metric}))
    assert {cluster.coordinator_ports["admin"], *(w.addresses()["admin"] for w in cluster.workers)} <= instances


def test_values_of_labels_are_those_that_the_page_bounds_them_to(live):
    _, prometheus, _, _ = live
    for label, bounds in tables.VALUES.items():
        found = set(prometheus.get(f"label/{label}/values", **{"match[]": '{job!="tables", __name__=~"anneal_.*"}'}))
        assert found <= bounds, f"{label}: {found - bounds}"


def test_every_scraped_metric_is_in_the_tables(live):
    _, prometheus, _, _ = live
    names = prometheus.get("label/__name__/values", **{"match[]": '{job!="tables", __name__=~"anneal_.*"}'})
    assert len(names) > 50
    assert set(names) <= tables.sample_names(tables.load(BIN_DIR / "anneal-metric-tables"))


# What may fire beside what a test is about, and why.
ALLOWED = {
    "AnnealCommunicationBound": "two trainers of a tiny model on the cores of one machine wait for each other more than they compute",
    "AnnealRankStraggling": "cores that others use, too",
    "AnnealDataStarvation": "a step of the tiny model is so short that reading rows is a good part of it",
    "AnnealTrainingDiverges": "the windows of ten minutes hold a few seconds",
    "AnnealDiskFilling": "the machine's own disk, of which the windows of an hour hold seconds",
    "AnnealDiskAlmostFull": "the machine's own disk",
}


def test_a_healthy_service_is_silent_and_a_killed_worker_alerts(live):
    cluster, prometheus, _, job = live

    def firing():
        live_alerts = [a for a in prometheus.alerts() if a.get("job") != "tables" and a.get("job_id") != tables.LABELS["job_id"].examples[0]]
        return {a["alertname"]: a for a in live_alerts if a["alertname"] not in ALLOWED}

    assert firing() == {}
    # With its keeper a worker loses its trainers: nothing of it is left.
    cluster.workers[1].kill()
    lost = wait_until(lambda: (found := firing()).keys() >= {"AnnealWorkerLost", "AnnealWorkerUnseen"} and found, 90, "the alerts")
    assert set(lost) == {"AnnealWorkerLost", "AnnealWorkerUnseen"}
    assert lost["AnnealWorkerLost"]["worker"] == "w1" and lost["AnnealWorkerLost"]["severity"] == "warning"
    cluster.wait_for_state(job.name, {"FAILED", "RECOVERING", "QUEUED"}, seconds=60)
    # Back again, on another port and so another target, it is lost no more.
    cluster.start_worker(1)
    wait_until(lambda: set(firing()) == {"AnnealWorkerUnseen"}, 60, "the alert to end")
