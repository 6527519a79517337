"""Helpers shared by the tests of deploy/: the real programs' flags, and the checking programs that tools/setup --test made."""

import os
import re
import subprocess
from pathlib import Path

import pytest

SOURCE_DIR = Path(os.environ["ANNEAL_SOURCE_DIR"])
BIN_DIR = Path(os.environ["ANNEAL_BIN_DIR"])


class Programs:
    """What the programs say about themselves."""

    def __init__(self):
        self._flags = {}

    def flags(self, program):
        """The flags of anneal-coordinator or anneal-worker, without dashes, as their --help lists them."""
        if program not in self._flags:
            text = subprocess.run([BIN_DIR / program, "--help"], capture_output=True, text=True, check=True).stdout
            self._flags[program] = set(re.findall(r"^  --([a-z-]+)", text, re.MULTILINE))
            assert {"help", "config", "storage-root"} <= self._flags[program], text
        return self._flags[program]

    def check_arguments(self, program, arguments):
        """Fails unless each argument is a flag that the program has, as --flag=value, or a value."""
        for argument in arguments:
            if argument.startswith("--"):
                assert argument[2:].partition("=")[0] in self.flags(program), f"{program} has no flag {argument}"

    def check_config(self, program, config):
        """Fails unless each key of a --config file is a flag with _ for -."""
        for key in config:
            assert "-" not in key and key.replace("_", "-") in self.flags(program), f"{program} has no setting {key}"


@pytest.fixture(scope="session")
def programs():
    return Programs()


@pytest.fixture(scope="session")
def checks():
    """The folder of kustomize, compose, pod_security and validate_crds.mjs."""
    script = f"source {SOURCE_DIR}/tools/lib/common.sh && anneal_deploy_checks"
    folder = Path(subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True).stdout)
    assert folder.is_dir(), f"{folder} is missing: run tools/setup --test"
    return folder


@pytest.fixture(scope="session")
def rendered(checks, tmp_path_factory):
    """Name of an overlay or a mix -> its manifests."""
    import manifests  # it imports this file
    folders = {name: manifests.KUBERNETES / "overlays" / name for name in manifests.OVERLAYS}
    for name, mix in manifests.MIXES.items():
        folders[name] = manifests.write_mix(tmp_path_factory.mktemp(name), *mix)
    return {name: manifests.render(checks, folder) for name, folder in folders.items()}


@pytest.fixture(scope="session")
def version():
    return re.search(r"project\(anneal VERSION (\S+)", (SOURCE_DIR / "CMakeLists.txt").read_text()).group(1)


def seconds(text):
    """600 for "10m", as flags write durations; only whole units."""
    number, unit = re.fullmatch(r"(\d+)(ms|s|m|h)", text).groups()
    return int(number) * {"ms": 0.001, "s": 1, "m": 60, "h": 3600}[unit]
