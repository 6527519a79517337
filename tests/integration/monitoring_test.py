"""The shipped rules and dashboards in a real Prometheus that scrapes a live service: one job trains, then a worker is killed."""

import http.server
import re
import sys
import threading

import pytest
import yaml

from mini_cluster import BIN_DIR, SOURCE_DIR, MiniCluster, stubs, wait_until
from prometheus import Prometheus

sys.path.insert(0, str(SOURCE_DIR / "tools" / "monitoring"))

import dashboards  # noqa: E402
import tables  # noqa: E402

RULES = SOURCE_DIR / "deploy" / "monitoring" / "prometheus"


class TableExporter:
    """Serves every metric of the tables, for what a healthy service without GPUs does not show."""

    def __init__(self):
        all_tables = tables.load(BIN_DIR / "anneal-metric-tables")
        ticks = iter(range(1 << 30))

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                text = tables.exposition(all_tables, next(ticks)).encode()
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
        with MiniCluster(folder, workers=2, allowed_roots=[tiny]) as cluster:
            jobs = {"anneal-coordinator": [cluster.coordinator_ports["admin"]],
                    "anneal-worker": [w.addresses()["admin"] for w in cluster.workers], "tables": [exporter.address]}
            with Prometheus(folder, jobs, scaled_rules(folder)) as prometheus:
                spec = job_pb2.JobSpec(
                    display_name="watched", model=f"file://{tiny}/model", method=job_pb2.Method(lora=job_pb2.LoraMethod(rank=4)),
                    data=job_pb2.DataSpec(train=[f"file://{tiny}/train.jsonl"], max_length=128,
                                          validation=job_pb2.ValidationSpec(files=[f"file://{tiny}/validation.jsonl"])),
                    training=job_pb2.TrainingSpec(epochs=1000, batch_size=16),
                    resources=job_pb2.ResourceSpec(slots=2, accelerator=job_pb2.ResourceSpec.ACCELERATOR_CPU))
                job = cluster.jobs.CreateJob(pb2.CreateJobRequest(spec=spec))
                cluster.wait_for_state(job.name, {"RUNNING"})
                # Rules read what other rules recorded: these are the ends of the longest chains.
                ulid = job.name.removeprefix("jobs/")
                for recorded in ("job_id_phase:anneal_rank_step_seconds:ratio5m", "job_id:anneal_job_loss:mean10m"):
                    wait_until(lambda name=recorded: prometheus.query(f'{name}{{job_id="{ulid}"}} > 0'), 90, f"{recorded} of the job")

                # Panels of calls divide by their rate: somebody looks at the job until it shows.
                def calls_are_counted():
                    cluster.jobs.GetJob(pb2.GetJobRequest(name=job.name))
                    return prometheus.query('sum(rate(anneal_rpc_requests_total{job="anneal-coordinator"}[15s])) > 0')

                wait_until(calls_are_counted, 60, "calls of the coordinator")
                yield cluster, prometheus, exporter, job
    finally:
        exporter.close()


def test_every_query_of_every_dashboard_returns_data(live):
    cluster, prometheus, exporter, job = live
    targets = [cluster.coordinator_ports["admin"], *(w.addresses()["admin"] for w in cluster.workers)]
    silent = []
    for board in dashboards.ALL:
        for panel in board.panels():
            instance = "|".join(targets) if panel.live else exporter.address
            job_id = job.name.removeprefix("jobs/") if panel.live else tables.LABELS["job_id"].examples[0]
            for query in panel.queries:
                expression = (query.expr.replace("$job_id", job_id).replace("$instance", instance)
                              .replace("$__rate_interval", "15s").replace("$__range", "1m"))
                assert "$" not in expression, expression
                if not prometheus.query(expression):
                    silent.append(f"{board.title}, {panel.title}: {expression}")
    assert not silent, "\n".join(silent)


def test_every_scraped_metric_is_in_the_tables(live):
    _, prometheus, _, _ = live
    names = prometheus.get("label/__name__/values", **{"match[]": '{job!="tables", __name__=~"anneal_.*"}'})
    assert len(names) > 50
    assert set(names) <= tables.sample_names(tables.load(BIN_DIR / "anneal-metric-tables"))


def test_a_healthy_service_is_silent_and_a_killed_worker_alerts(live):
    cluster, prometheus, _, job = live
    known = {rule["alert"] for group in yaml.safe_load((RULES / "alerting_rules.yml").read_text())["groups"] for rule in group["rules"]}

    def firing(**labels):
        live_alerts = [a for a in prometheus.alerts() if a.get("job") != "tables" and a.get("job_id") != tables.LABELS["job_id"].examples[0]]
        assert {a["alertname"] for a in live_alerts} <= known
        return [a for a in live_alerts if labels.items() <= a.items()]

    assert not firing(alertname="AnnealWorkerLost")
    # With its keeper a worker loses its trainers: nothing of it is left.
    cluster.workers[1].kill()
    lost = wait_until(lambda: firing(alertname="AnnealWorkerLost"), 90, "the alert")
    assert [a["worker"] for a in lost] == ["w1"] and lost[0]["severity"] == "warning"
    cluster.wait_for_state(job.name, {"FAILED", "RECOVERING", "QUEUED"}, seconds=60)
    # Back again, it is silent again.
    cluster.start_worker(1)
    wait_until(lambda: not firing(alertname="AnnealWorkerLost"), 60, "the alert to end")
