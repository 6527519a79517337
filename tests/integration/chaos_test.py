"""Faults at random: every job ends with the bytes of an undisturbed one."""

import os
import statistics
import sys
from pathlib import Path

sys.path.insert(0, str(Path(os.environ["ANNEAL_SOURCE_DIR"]) / "tools" / "lib"))

import chaos  # noqa: E402
import hang  # noqa: E402

FAULTS = 25


def test_jobs_survive_random_faults(tmp_path):
    faults = chaos.run(tmp_path, FAULTS, seed=1)
    assert len(faults) == FAULTS
    # Where the job had not ended first. The bounds are far above what an idle machine shows, and below what a person would
    # call hanging.
    bounds = [("kill trainer", 1, 5), ("stop trainer", 10, 15)]
    if hang.why_refused() is None:
        bounds.append((chaos.HANG, 15, 20))
    for kind, noticed, recovered in bounds:
        struck = [fault for fault in faults if fault.kind == kind and fault.recovered is not None]
        assert struck and all(fault.noticed is not None for fault in struck), faults
        assert statistics.median(fault.noticed for fault in struck) < noticed, faults
        assert statistics.median(fault.recovered for fault in struck) < recovered, faults
