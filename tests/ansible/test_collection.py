"""A playbook plans, applies, changes nothing the second time, and removes."""

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

from lbctl.conformance.network import HOST4
from support.far_hosts import FarHost
from support.network import Network, intent, service

EXAMPLE = Path(__file__).parents[2] / "examples/ansible"
BIN = Path(sys.executable).parent
PORTS = (8001, 8002)


def test_a_playbook_balances_a_host(network: Network, tmp_path: Path) -> None:
    network.local_endpoints(PORTS)
    far = FarHost(network)
    file = tmp_path / "web.toml"
    file.write_text(intent(service("web", "80/tcp", "8001", "8002")), encoding="utf-8")
    collections = tmp_path / "collections/ansible_collections/lbctl"
    collections.mkdir(parents=True)
    (collections / "lbctl").symlink_to(EXAMPLE)

    def play(*options: str, state: str = "present") -> dict[str, Any]:
        task = {"intent": str(file), "host": "far", "state": state, "executable": str(BIN / "lbctl")}
        book = tmp_path / "play.yml"
        said = tmp_path / "said.json"
        written = {"content": "{{ found | to_json }}", "dest": str(said)}
        tasks = [
            {"name": "balance", "lbctl.lbctl.lbctl": task, "register": "found"},
            {"name": "keep", "ansible.builtin.copy": written, "check_mode": False, "diff": False},
        ]
        head = {"hosts": "localhost", "gather_facts": False, "connection": "local"}
        # JSON is YAML.
        book.write_text(json.dumps([{**head, "tasks": tasks}]), encoding="utf-8")
        with network.client.entered():
            done = subprocess.run(
                [str(BIN / "ansible-playbook"), "-i", "localhost,", *options, str(book)],
                env={
                    **os.environ,
                    **far.env,
                    "ANSIBLE_COLLECTIONS_PATH": str(tmp_path / "collections"),
                    "ANSIBLE_PYTHON_INTERPRETER": sys.executable,
                    "ANSIBLE_LOCAL_TEMP": str(tmp_path / "local"),
                    "ANSIBLE_REMOTE_TEMP": str(tmp_path / "remote"),
                    "HOME": str(tmp_path),
                },
                capture_output=True,
                text=True,
            )
        assert done.returncode == 0, done.stdout + done.stderr
        found: dict[str, Any] = json.loads(said.read_text(encoding="utf-8"))
        return found

    before = network.rules()
    checked = play("--check", "--diff")
    assert checked["changed"]
    assert "8002" in checked["diff"]["after"]
    assert network.rules() == before
    assert play()["changed"]
    assert Counter(network.ask(network.client, HOST4, 80, 4)) == {"8001": 2, "8002": 2}
    assert not play()["changed"]
    assert play(state="absent")["changed"]
    assert network.rules() == before
