"""The include check finds what it is for: each rule broken once in a small tree."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

CHECK = Path(os.environ["ANNEAL_SOURCE_DIR"]) / "tools" / "lint" / "check_includes"


def check(root, files):
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    result = subprocess.run([sys.executable, CHECK, root], capture_output=True, text=True)
    return result.returncode, result.stdout


@pytest.mark.parametrize("files, finding", [
    ({"common/base/a.h": "#pragma once\n", "coordinator/catalog/b.h": "#pragma once\n",
      "worker/daemon/c.cc": '#include "common/base/a.h"\n#include "coordinator/catalog/b.h"\n'},
     "worker/daemon/c.cc:2: worker/daemon must not include coordinator/catalog"),
    ({"worker/daemon/a.cc": "#include <ATen/core/Tensor.h>\n"}, "worker/daemon/a.cc:1: worker/daemon is free of torch"),
    ({"worker/trainer/model/a.cc": "#include <ATen/Tensor.h>\n#include <google/rpc/status.pb.h>\n"}, "both torch and a .pb.h"),
    ({"worker/trainer/engine/a.cc": "#include <grpcpp/grpcpp.h>\n"}, "may include grpcpp/grpcpp.h"),
    ({"coordinator/lifecycle/a.cc": "#include <thread>\n"}, "decides from its arguments alone"),
    ({"common/base/testing/t.h": "#pragma once\n", "common/base/a.cc": '#include "common/base/testing/t.h"\n'},
     "which is for tests"),
    ({"common/base/a.h": "// No guard.\n"}, "common/base/a.h:1: a header begins with #pragma once"),
    ({"common/base/a.cc": "\n" * 501}, "has 501 lines"),
    ({"common/base/a.cc": "// TO" "DO: later\n"}, "marks unfinished work"),
    ({"common/new/a.cc": "#include <vector>\n"}, "common/new is not in ARROWS"),
])
def test_finding(tmp_path, files, finding):
    code, output = check(tmp_path, files)
    assert code == 1
    assert finding in output


def test_circle(tmp_path):
    code, output = check(tmp_path, {
        "coordinator/fleet/a.h": '#pragma once\n#include "coordinator/lifecycle/b.h"\n',
        "coordinator/lifecycle/b.h": '#pragma once\n#include "coordinator/fleet/a.h"\n'})
    assert code == 1
    assert "closes a circle: coordinator/fleet -> coordinator/lifecycle -> coordinator/fleet" in output


def test_what_is_allowed_is_silent(tmp_path):
    code, output = check(tmp_path, {
        "common/base/a.h": "#pragma once\n#include <vector>\n",
        "common/format/sub/b.cc": '#include "common/base/a.h"\n',
        "common/base/a_test.cc": '#include "worker/anything.h"\n'})
    assert (code, output) == (0, "includes: no findings\n")
