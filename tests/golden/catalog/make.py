#!/usr/bin/env python3
"""Writes catalog_v<N>.sql, the catalog of a coordinator that has done some of everything, as text.

Usage: ANNEAL_SOURCE_DIR=. ANNEAL_BIN_DIR=build/release/bin tests/golden/catalog/make.py FOLDER TARGET [OLDER.sql]

With the catalog of an older version, it is that one, opened and added to by the present version.

Run it in a checkout of the version whose schema is wanted, before the schema changes. The service runs in FOLDER, which the catalog
will name: take one that says nothing about your machine, such as /srv/anneal.
"""

import hashlib
import os
import shutil
import sqlite3
import sys
from pathlib import Path

sys.path.insert(0, str(Path(os.environ["ANNEAL_SOURCE_DIR"]) / "tests" / "testing"))

import tiny_model  # noqa: E402
from mini_cluster import MiniCluster, stubs  # noqa: E402


def upload(cluster, path):
    pb2 = stubs("file_service_pb2")
    data = path.read_bytes()
    header = pb2.UploadHeader(display_name=path.name, size_bytes=len(data), sha256=hashlib.sha256(data).hexdigest(), upload_id="u1")
    return cluster.files.UploadFile(iter([pb2.UploadFileRequest(header=header), pb2.UploadFileRequest(chunk=data)])).name


def fill(folder):
    """A trained job, a cancelled one, one that waits; a file, a model, and a drained worker."""
    pb2, job_pb2 = stubs("fine_tuning_service_pb2"), stubs("job_pb2")
    model_pb2, cluster_pb2 = stubs("model_service_pb2"), stubs("cluster_service_pb2")
    tiny_model.make_llama(folder / "tiny")
    tiny_model.write_chat_rows(folder / "train.jsonl", rows=20)
    with MiniCluster(folder, workers=1) as cluster:
        cluster.models.ImportModel(model_pb2.ImportModelRequest(model_id="tiny", source_uri=f"file://{folder}/tiny"))
        file = upload(cluster, folder / "train.jsonl")

        def submit(name):
            spec = job_pb2.JobSpec(
                display_name=name, model="models/tiny", method=job_pb2.Method(lora=job_pb2.LoraMethod(rank=4, alpha=8)),
                data=job_pb2.DataSpec(train=[file], max_length=128),
                training=job_pb2.TrainingSpec(epochs=1, batch_size=8, seed=7),
                resources=job_pb2.ResourceSpec(slots=1, accelerator=job_pb2.ResourceSpec.ACCELERATOR_CPU))
            return cluster.jobs.CreateJob(pb2.CreateJobRequest(spec=spec, request_id=name)).name

        cluster.wait_for_state(submit("trained"), {"SUCCEEDED"})
        cluster.cluster.DrainWorker(cluster_pb2.DrainWorkerRequest(name="workers/w0"))
        submit("waiting")
        cluster.jobs.CancelJob(pb2.JobActionRequest(name=submit("cancelled")))


def carry_on(folder, older):
    """What `older` holds, and an API key."""
    (folder / "catalog").mkdir(mode=0o700)
    database = sqlite3.connect(folder / "catalog" / "catalog.db")
    # Its tables come in the order of their names.
    database.executescript("PRAGMA foreign_keys=OFF;" + older.read_text())
    database.close()
    with MiniCluster(folder, workers=0) as cluster:
        pb2, grpc = stubs("key_service_pb2"), stubs("key_service_pb2_grpc")
        grpc.KeyServiceStub(cluster.channel).CreateKey(
            pb2.CreateKeyRequest(role=pb2.Key.ROLE_USER, project="default", creator="ada"))


def main():
    folder, target = Path(sys.argv[1]), Path(sys.argv[2])
    folder.mkdir(parents=True)
    try:
        if len(sys.argv) > 3:
            carry_on(folder, Path(sys.argv[3]))
        else:
            fill(folder)
        database = sqlite3.connect(folder / "catalog" / "catalog.db")
        version = database.execute("PRAGMA user_version").fetchone()[0]
        (target / f"catalog_v{version}.sql").write_text("\n".join(database.iterdump()) + f"\nPRAGMA user_version={version};\n")
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
