"""A real Prometheus in a temporary folder.

    with Prometheus(tmp_path, {"anneal": [address, ...]}, rule_files=[...]) as prometheus:
        prometheus.query("up")
"""

import json
import os
import pathlib
import subprocess
import urllib.parse
import urllib.request

import yaml

from mini_cluster import wait_until


class Prometheus:
    """Scrapes each target of `jobs` ({job name: [host:port]}) every second and evaluates `rule_files` as often."""

    def __init__(self, folder, jobs, rule_files=()):
        self.folder = folder
        config = {
            "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
            "rule_files": [str(path) for path in rule_files],
            "scrape_configs": [{"job_name": name, "static_configs": [{"targets": list(targets)}]} for name, targets in jobs.items()]}
        (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
        self.targets = sum(len(targets) for targets in jobs.values())
        self.log_path = folder / "prometheus.log"
        self.server = None

    def __enter__(self):
        with open(self.log_path, "w") as log:
            self.server = subprocess.Popen(
                ["prometheus", f"--config.file={self.folder}/prometheus.yml", f"--storage.tsdb.path={self.folder}/prometheus-data",
                 "--web.listen-address=127.0.0.1:0"], stdout=log, stderr=subprocess.STDOUT)
        try:
            self.address = f"127.0.0.1:{wait_until(self._port, 30, 'prometheus to listen')}"
            wait_until(self._all_up, 60, f"all {self.targets} targets to be up")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *exc):
        self.server.terminate()
        self.server.wait(timeout=30)

    def _port(self):
        # Prometheus does not tell which port it was given for 0.
        assert self.server.poll() is None, self.log_path.read_text()
        process = pathlib.Path(f"/proc/{self.server.pid}")
        try:
            sockets = {os.readlink(fd) for fd in (process / "fd").iterdir()}
        except FileNotFoundError:  # closed meanwhile; asked again
            return None
        for line in (process / "net" / "tcp").read_text().splitlines()[1:]:
            fields = line.split()  # proc(5): local address in hexadecimal, state 0A = LISTEN, inode
            if fields[3] == "0A" and f"socket:[{fields[9]}]" in sockets:
                return int(fields[1].rpartition(":")[2], 16)
        return None

    def _all_up(self):
        try:
            return len(self.query("up == 1")) == self.targets
        except OSError:
            return False

    def get(self, path, **parameters):
        """`data` of the answer; fails on an error of Prometheus, such as a query that does not parse."""
        url = f"http://{self.address}/api/v1/{path}?{urllib.parse.urlencode(parameters)}"
        with urllib.request.urlopen(url, timeout=10) as response:
            return json.load(response)["data"]

    def query(self, expression):
        """The samples of an instant query."""
        return self.get("query", query=expression)["result"]

    def alerts(self, state="firing"):
        """The labels of the alerts in this state."""
        return [alert["labels"] for alert in self.get("alerts")["alerts"] if alert["state"] == state]
