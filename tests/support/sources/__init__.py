"""What is behind each source of endpoints in tests: one module for each, behind one protocol."""

from __future__ import annotations

from pathlib import Path

import pytest

from support.sources.consul import ConsulRig, ConsulServer, instance
from support.sources.dns import DnsRig, DnsServer
from support.sources.docker import DockerRig, container
from support.sources.etcd import EtcdRig
from support.sources.file import FileRig
from support.sources.kubernetes import KubernetesRig, KubernetesServer, endpoint_slice
from support.sources.rig import Rig, WebRig
from support.sources.systemd import SystemdRig

RIGS = ("dns", "etcd", "file", "systemd", "docker", "consul", "kubernetes")


def rig_of(source: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Rig:
    """Return what is behind a source, not yet started."""
    match source:
        case "dns":
            return DnsRig(folder, monkeypatch)
        case "systemd":
            return SystemdRig(folder, monkeypatch)
        case _:
            kinds = {
                "etcd": EtcdRig,
                "file": FileRig,
                "docker": DockerRig,
                "consul": ConsulRig,
                "kubernetes": KubernetesRig,
            }
            return kinds[source](folder)


__all__ = [
    "RIGS",
    "ConsulRig",
    "ConsulServer",
    "DnsServer",
    "DockerRig",
    "KubernetesRig",
    "KubernetesServer",
    "Rig",
    "WebRig",
    "container",
    "endpoint_slice",
    "instance",
    "rig_of",
]
