"""The examples for Prometheus and Grafana, with the real Prometheus and a real agent."""

import http.client
import json
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest

from lbctl.conformance.network import HOST4
from support.agents import PORT, AgentProcess
from support.network import Network, intent, service

MONITORING = Path(__file__).parents[2] / "examples" / "monitoring"
WEB = intent(service("web", "80/tcp", "8001", "8002", check="tcp"))


def promtool(servers: Path, *words: str, stdin: str = "") -> None:
    done = subprocess.run(
        [servers / "usr/bin/promtool", *words], input=stdin, capture_output=True, text=True, cwd=MONITORING
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_prometheus_takes_the_examples(servers: Path) -> None:
    promtool(servers, "check", "config", "prometheus.yml")
    promtool(servers, "check", "rules", "alerts.yml")
    promtool(servers, "test", "rules", "alerts.test.yml")


def test_each_alert_has_a_test() -> None:
    names = {
        line.split()[-1]
        for line in (MONITORING / "alerts.yml").read_text().splitlines()
        if line.strip().startswith("- alert:")
    }
    tested = (MONITORING / "alerts.test.yml").read_text()
    assert names
    assert {name for name in names if f"alertname: {name}\n" not in tested} == set()


@pytest.fixture
def agent(network: Network) -> Iterator[AgentProcess]:
    network.local_endpoints((8001,))
    (network.folder / "lbctl.toml").write_text(WEB)
    made = AgentProcess(network, config=network.folder / "lbctl.toml").ready()
    made.wait(lambda: "down" in made.get("/status")[1], "8002 is not found to be down")
    yield made
    made.kill()


def test_promtool_finds_no_fault_in_the_metrics(servers: Path, agent: AgentProcess) -> None:
    promtool(servers, "check", "metrics", stdin=agent.get("/metrics")[1])


class Prometheus:
    """A server of its own beside the agent."""

    def __init__(self, servers: Path, network: Network) -> None:
        self.network = network
        config = network.folder / "prometheus.yml"
        config.write_text(
            f"scrape_configs:\n  - job_name: lbctl\n    scrape_interval: 1s\n    static_configs:\n"
            f'      - targets: ["127.0.0.1:{PORT}"]\n'
        )
        with network.host.entered():
            self.process = subprocess.Popen(
                [
                    servers / "usr/bin/prometheus",
                    f"--config.file={config}",
                    f"--storage.tsdb.path={network.folder / 'tsdb'}",
                    "--web.listen-address=127.0.0.1:9090",
                ],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )

    def query(self, expression: str) -> tuple[str, list[object]]:
        """Return the status and the series of an expression."""
        with self.network.host.entered():
            connection = http.client.HTTPConnection("127.0.0.1", 9090, timeout=10)
            try:
                connection.request("GET", f"/api/v1/query?query={quote(expression)}")
                found = json.loads(connection.getresponse().read())
                return found["status"], found.get("data", {}).get("result", [])
            except OSError:
                return "no answer", []
            finally:
                connection.close()

    def close(self) -> None:
        self.process.kill()
        self.process.wait()


def test_each_panel_of_the_dashboard_shows_something(
    servers: Path, network: Network, agent: AgentProcess
) -> None:
    prometheus = Prometheus(servers, network)
    network.ask(network.client, HOST4, 80, 20)
    try:
        until = time.monotonic() + 90
        while len(prometheus.query("count_over_time(lbctl_drift[1m]) > 2")[1]) == 0:
            assert time.monotonic() < until, "Prometheus does not scrape the agent"
            time.sleep(0.5)
        dashboard = json.loads((MONITORING / "dashboard.json").read_text())
        for panel in dashboard["panels"]:
            for target in panel["targets"]:
                expression = target["expr"].replace("$service", ".*").replace("$instance", ".*")
                status, series = prometheus.query(expression)
                assert (status, bool(series)) == ("success", True), (panel["title"], expression)
        assert prometheus.query("lbctl_endpoint_up == 0")[1]
    finally:
        prometheus.close()
