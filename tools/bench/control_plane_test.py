"""tools/bench/control_plane with small numbers: that it counts real answers, not how fast they come."""

import os
import sys
from pathlib import Path

import pytest

SOURCE_DIR = Path(os.environ["ANNEAL_SOURCE_DIR"])
sys.path[:0] = [str(SOURCE_DIR / "tools" / "bench"), str(SOURCE_DIR / "tests" / "testing")]

import control_plane  # noqa: E402


@pytest.fixture(scope="module")
def figures(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bench") / "run"
    options = control_plane.parse(["--jobs", "40", "--calls", "20", "--workers", "3", "--streams", "5", "--runs", "1", "--seconds", "1", "--folder",
                                   str(folder), "--json", os.devnull])
    return control_plane.measure(options)


def test_every_submit_is_an_acknowledged_job(figures):
    # 20 at a time and 2 alone, and ten for each in flight before them, of which nothing is left to fill up; the same once more.
    assert figures["submitted"] == 2 * (20 + 640 + 2 + 10)
    together = figures["together"]["submit"]["count"]
    assert together > 0
    assert figures["acknowledged"] == 40 + together


def test_reads_and_streams_have_been_answered(figures):
    assert figures["get"]["count"] > 0 and figures["list"]["count"] > 0
    assert figures["watch"]["streams"] == 5 and figures["watch"]["count"] == 5
    assert figures["watch"]["messages"] >= 5 + 5, "a snapshot each, and an event each"


def test_workers_have_synced_and_trained(figures):
    fleet = figures["fleet"]
    assert fleet["workers"] == 3
    assert fleet["received_per_second"] > 0 and fleet["steps"] > 0


def test_percentiles_are_in_order(figures):
    for report in (figures["get"], figures["together"]["submit"], figures["submit_empty"]["submit_64"]):
        assert 0 < report["p50_ms"] <= report["p99_ms"] <= report["max_ms"]
