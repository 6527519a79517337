"""One job from CreateJob to a tuned model on two workers, seen through stubs, reflection, metrics and a real Prometheus."""

import hashlib
import json
import re
import subprocess
import sys
import tarfile
import urllib.request
from collections import Counter

import grpc
import numpy as np
import pytest
import torch

from mini_cluster import BIN_DIR, KEY, SOURCE_DIR, MiniCluster, stubs
from prometheus import Prometheus


@pytest.fixture(scope="module")
def finished(tmp_path_factory, tiny):
    """A cluster with one finished job: (cluster, job, watch updates)."""
    pb2, job_pb2 = stubs("fine_tuning_service_pb2"), stubs("job_pb2")
    with MiniCluster(tmp_path_factory.mktemp("cluster"), workers=2, allowed_roots=[tiny]) as cluster:
        spec = job_pb2.JobSpec(
            display_name="first-light", model=f"file://{tiny}/model",
            method=job_pb2.Method(lora=job_pb2.LoraMethod(rank=4, alpha=8)),
            data=job_pb2.DataSpec(train=[f"file://{tiny}/train.jsonl"], max_length=128,
                                  validation=job_pb2.ValidationSpec(files=[f"file://{tiny}/validation.jsonl"])),
            training=job_pb2.TrainingSpec(  # fp32 on any processor: its numbers are compared with transformers' below
                epochs=2, batch_size=16, learning_rate=5e-3, seed=7, precision=job_pb2.TrainingSpec.PRECISION_FP32),
            resources=job_pb2.ResourceSpec(slots=2, accelerator=job_pb2.ResourceSpec.ACCELERATOR_CPU))
        job = cluster.jobs.CreateJob(pb2.CreateJobRequest(spec=spec, request_id="r1"))
        updates = list(cluster.jobs.WatchJob(pb2.WatchJobRequest(name=job.name), timeout=180))
        job = cluster.wait_for_state(job.name, {"SUCCEEDED"})
        yield cluster, job, updates


def test_job_walks_its_states_and_learns(finished):
    cluster, job, _ = finished
    job_pb2 = stubs("job_pb2")
    events = cluster.jobs.ListJobEvents(
        stubs("fine_tuning_service_pb2").ListJobEventsRequest(name=job.name, page_size=1000)).events
    assert [e.sequence for e in events] == list(range(1, len(events) + 1))
    walked = [job_pb2.JobState.Name(e.state_change.to).removeprefix("JOB_STATE_")
              for e in events if e.HasField("state_change")]
    assert walked == ["PENDING", "PREPARING", "QUEUED", "STARTING", "RUNNING", "EXPORTING", "SUCCEEDED"]
    assert job.progress.step == job.progress.total_steps == 12
    assert job.result.after.loss < job.result.before.loss
    assert job.result.last_loss < job.result.first_loss
    assert job.data.train_rows == 96 and job.data.validation_rows == 24
    assert job.create_time.seconds <= job.start_time.seconds <= job.finish_time.seconds
    assert job.resolved.origins["training.epochs"] == "user"
    assert job.resolved.origins["training.schedule"] == "default"


def test_watch_gives_a_snapshot_first_and_every_step(finished):
    _, job, updates = finished
    assert updates[0].HasField("snapshot")
    assert [u.step.step for u in updates if u.HasField("step") and u.step.step > 0] == list(range(1, 13))
    sequences = [u.event.sequence for u in updates if u.HasField("event")]
    assert sequences == sorted(set(sequences))


def test_the_memory_plan_made_before_the_job_holds(finished):
    cluster, job, _ = finished
    plan = job.resolved.memory_plan
    assert job.resolved.origins["training.sharding"] == "cluster" and "NONE needs" in plan.reason
    assert plan.slots == 2 and 0 < plan.total_bytes <= plan.available_bytes
    for rank in (0, 1):
        log = (cluster.storage / job.name / "logs" / "g1" / f"rank{rank}.log").read_text()
        line = next(line for line in log.splitlines() if "memory plan" in line)
        planned = {name: int(value) for name, value in re.findall(r"(\w+)=(\d+)\b", line)}
        # What does not depend on the rows is the same from the model's config as from the loaded model.
        for item in ("weights", "gathered", "moments", "exchange", "snapshot"):
            assert planned[item] == getattr(plan, f"{item}_bytes"), item
        assert planned["total_bytes"] <= plan.total_bytes  # no row is as long as rows may be
        assert int(re.search(r"peak_tensor_bytes=(\d+)", log)[1]) <= 1.1 * plan.total_bytes


def test_debug_archive_holds_what_helps_and_no_data_and_no_key(finished, tiny, tmp_path):
    cluster, job, _ = finished
    archive = tmp_path / "help.tar"
    subprocess.run([BIN_DIR / "anneal", "--server", cluster.coordinator_ports["api"], "--api-key-file", cluster.folder / "credentials",
                    "debug", job.name.removeprefix("jobs/"), "--to", archive], check=True)
    with tarfile.open(archive) as tar:
        files = {member.name.split("/", 1)[1]: tar.extractfile(member).read().decode() for member in tar}
    assert files.keys() == {"versions.json", "job.json", "events.jsonl", "steps.jsonl", "checkpoints.json", "workers.json",
                            "logs/prepare.log", "logs/g1/rank0.log", "logs/g1/rank1.log"}
    assert json.loads(files["job.json"])["name"] == job.name
    assert [json.loads(line)["step"] for line in files["steps.jsonl"].splitlines()] == list(range(1, 13))
    for name in files:
        if name.startswith("logs/"):
            assert files[name] == (cluster.storage / job.name / name).read_text()
    assert "rank" in files["logs/g1/rank0.log"]
    rows = [json.loads(line) for line in (tiny / "train.jsonl").read_text().splitlines()]
    for secret in [KEY, *(row["messages"][0]["content"] for row in rows)]:
        assert not any(secret in text for text in files.values()), secret


def test_ledger_shows_each_row_once_per_epoch(finished):
    cluster, job, _ = finished
    lines = (cluster.output_dir(job.name) / "ledger.jsonl").read_text().splitlines()
    ledger = [json.loads(line) for line in lines]
    assert [entry["step"] for entry in ledger] == list(range(1, 13))
    for epoch in (ledger[:6], ledger[6:]):
        rows = Counter(row for entry in epoch for shard in entry["rows"] for row in shard)
        assert rows == Counter(range(96))


def test_artifacts_are_listed_hashed_and_downloadable(finished):
    cluster, job, _ = finished
    pb2 = stubs("artifact_service_pb2")
    listed = cluster.artifacts.ListArtifacts(pb2.ListArtifactsRequest(parent=job.name)).artifacts
    paths = {a.path for a in listed}
    assert {"adapter/adapter_model.safetensors", "adapter/adapter_config.json", "ledger.jsonl", "metrics.csv",
            "resolved_job.json", "data_report.json"} <= paths
    for artifact in listed:
        data = b"".join(c.data for c in cluster.artifacts.DownloadArtifact(pb2.DownloadArtifactRequest(name=artifact.name)))
        assert len(data) == artifact.size_bytes
        assert hashlib.sha256(data).hexdigest() == artifact.sha256


def test_adapter_loads_in_peft_and_keeps_the_loss(finished, tiny):
    """The adapter on the base model, in peft, has the validation loss that the job reports."""
    import peft
    import transformers
    cluster, job, _ = finished
    base = transformers.AutoModelForCausalLM.from_pretrained(tiny / "model", dtype=torch.float32)
    model = peft.PeftModel.from_pretrained(base, cluster.output_dir(job.name) / "adapter").eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(tiny / "model")
    losses = []
    for line in (tiny / "validation.jsonl").read_text().splitlines():
        messages = json.loads(line)["messages"]
        text = tokenizer.apply_chat_template(messages, tokenize=False)
        prompt = tokenizer.apply_chat_template(messages[:-1], tokenize=False, add_generation_prompt=True)
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        start = len(tokenizer(prompt, add_special_tokens=False)["input_ids"])
        end = max(i for i, token in enumerate(ids) if token == tokenizer.convert_tokens_to_ids("<|im_end|>")) + 1
        with torch.no_grad():
            logits = model(torch.tensor([ids])).logits[0].double()
        losses += torch.nn.functional.cross_entropy(
            logits[start - 1:end - 1], torch.tensor(ids[start:end]), reduction="none").tolist()
    assert np.mean(losses) == pytest.approx(job.result.after.loss, rel=1e-3)


def test_the_run_replays_in_transformers_and_peft(finished, tmp_path):
    """tools/replay finds the base model and the rows below the storage root by itself."""
    cluster, job, _ = finished
    done = subprocess.run([SOURCE_DIR / "tools" / "replay", cluster.output_dir(job.name), "--json", tmp_path / "replay.json"],
                          capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    summary = json.loads((tmp_path / "replay.json").read_text())
    assert summary["steps"] == 12 and summary["values_difference"] < 1e-3
    assert summary["table"][0]["replayed_loss"] == pytest.approx(job.result.first_loss, rel=1e-3)


def test_requests_are_idempotent_and_errors_are_helpful(finished, make_spec):
    cluster, job, _ = finished
    pb2 = stubs("fine_tuning_service_pb2")
    spec = make_spec(display_name="first-light")
    again = cluster.jobs.CreateJob(pb2.CreateJobRequest(spec=job.spec, request_id="r1"))
    assert again.name == job.name
    with pytest.raises(grpc.RpcError) as other:
        cluster.jobs.CreateJob(pb2.CreateJobRequest(spec=make_spec(epochs=9), request_id="r1"))
    assert other.value.code() == grpc.StatusCode.ALREADY_EXISTS
    spec.training.batch_size = -3
    spec.method.lora.rank = 100000
    checked = cluster.jobs.CheckJob(pb2.CheckJobRequest(spec=spec))
    assert {"training.batch_size", "method.lora.rank"} <= {i.field for i in checked.issues}
    with pytest.raises(grpc.RpcError) as refused:
        cluster.jobs.CreateJob(pb2.CreateJobRequest(spec=spec))
    assert refused.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    with pytest.raises(grpc.RpcError) as missing:
        cluster.get_job("jobs/01hf7yat00abcdefghjkmnpqrs")
    assert missing.value.code() == grpc.StatusCode.NOT_FOUND


def test_a_wrong_key_is_denied(finished):
    cluster, _, _ = finished
    channel = grpc.insecure_channel(cluster.coordinator_ports["api"])
    jobs = stubs("fine_tuning_service_pb2_grpc").FineTuningServiceStub(channel)
    with pytest.raises(grpc.RpcError) as denied:
        jobs.ListJobs(stubs("fine_tuning_service_pb2").ListJobsRequest(), metadata=[("authorization", "Bearer wrong")])
    assert denied.value.code() == grpc.StatusCode.UNAUTHENTICATED


# Drives a job with nothing but what the server tells of itself; a process of its own, so that no generated stub helps.
REFLECTION_CLIENT = """
import sys, grpc
from google.protobuf import descriptor_pool, message_factory
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
address, key, model, train = sys.argv[1:]
channel = grpc.insecure_channel(address)
database = ProtoReflectionDescriptorDatabase(channel)
assert "anneal.v1.FineTuningService" in list(database.get_services()), list(database.get_services())
pool = descriptor_pool.DescriptorPool(database)
service = pool.FindServiceByName("anneal.v1.FineTuningService")
def call(method, stream=False, **fields):
    m = service.FindMethodByName(method)
    request, response = (message_factory.GetMessageClass(t) for t in (m.input_type, m.output_type))
    make = channel.unary_stream if stream else channel.unary_unary
    stub = make(f"/anneal.v1.FineTuningService/{method}", request_serializer=request.SerializeToString,
                response_deserializer=response.FromString)
    return stub(request(**fields), metadata=[("authorization", "Bearer " + key)], timeout=180)
spec = dict(model=model, data=dict(train=[train], validation=dict(fraction=0.1), max_length=128),
            training=dict(epochs=1, batch_size=16, max_steps=2), resources=dict(slots=1, accelerator=2))
job = call("CreateJob", spec=spec)
for update in call("WatchJob", stream=True, name=job.name):
    pass
job = call("GetJob", name=job.name)
assert job.state == 13, job
print("succeeded by reflection alone")
"""


def test_a_job_can_be_driven_by_reflection_alone(finished, tiny):
    cluster, _, _ = finished
    done = subprocess.run(
        [sys.executable, "-c", REFLECTION_CLIENT, cluster.coordinator_ports["api"], KEY, f"file://{tiny}/model",
         f"file://{tiny}/train.jsonl"], capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    assert "succeeded by reflection alone" in done.stdout


def test_health_service_answers(finished):
    from grpc_health.v1 import health_pb2, health_pb2_grpc
    cluster, _, _ = finished
    stub = health_pb2_grpc.HealthStub(grpc.insecure_channel(cluster.coordinator_ports["api"]))
    assert stub.Check(health_pb2.HealthCheckRequest()).status == health_pb2.HealthCheckResponse.SERVING


def scrape(address):
    with urllib.request.urlopen(f"http://{address}/metrics", timeout=10) as response:
        return response.read().decode()


def test_metrics_are_clean_and_tell_of_the_job(finished):
    cluster, job, _ = finished
    ulid = job.name.removeprefix("jobs/")
    coordinator = scrape(cluster.coordinator_ports["admin"])
    workers = [scrape(w.addresses()["admin"]) for w in cluster.workers]
    for text in [coordinator, *workers]:
        checked = subprocess.run(["promtool", "check", "metrics"], input=text, capture_output=True, text=True)
        assert checked.returncode == 0 and not checked.stderr.strip(), checked.stdout + checked.stderr
    for name in ("anneal_job_step", "anneal_job_train_loss", "anneal_job_learning_rate", "anneal_job_grad_norm",
                 "anneal_job_loss_sum_total", "anneal_job_loss_tokens_total", "anneal_job_tokens_total", "anneal_job_info"):
        assert any(line.startswith(name + "{") and f'job_id="{ulid}"' in line for line in coordinator.splitlines()), name
    for name in ("anneal_jobs", "anneal_job_queue_wait_seconds", "anneal_rpc_requests_total", "anneal_rpc_duration_seconds"):
        assert any(line.startswith(name) for line in coordinator.splitlines()), name
    assert any(line.startswith("anneal_rank_step_seconds_total{") and 'phase="forward"' in line
               for text in workers for line in text.splitlines())
    for path in ("livez", "readyz"):
        with urllib.request.urlopen(f"http://{cluster.coordinator_ports['admin']}/{path}", timeout=10) as response:
            assert response.status == 200


def test_a_real_prometheus_scrapes_the_service(finished, tmp_path):
    cluster, _, _ = finished
    targets = [cluster.coordinator_ports["admin"], *(w.addresses()["admin"] for w in cluster.workers)]
    with Prometheus(tmp_path, {"anneal": targets}) as prometheus:
        assert prometheus.query('anneal_jobs{state="SUCCEEDED"}')
