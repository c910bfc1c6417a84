import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

import pytest

from lbctl.host import LocalHost
from lbctl.host.netns import CURRENT, Namespace
from support.agents import PORTS, AgentProcess, Processes, Serving
from support.network import DRIVERS, Network

# iptables locks one file for all namespaces of a host, and 1.8.11 does not wait for it by itself: tests that
# run at once would fail each other, and commands on this host.
os.environ["XTABLES_LOCKFILE"] = CURRENT


@pytest.fixture(scope="session", autouse=True)
def _root() -> None:
    # Never skipped in silence: without the kernel these tests prove nothing.
    assert os.geteuid() == 0, "kernel tests need root: run `make test` as root"


@pytest.fixture
def network(tmp_path: Path) -> Iterator[Network]:
    made = Network(tmp_path)
    yield made
    made.close()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """State of lbctl for one module of tests."""
    return tmp_path_factory.mktemp("state")


@pytest.fixture(scope="module")
def inside(folder: Path) -> Iterator[None]:
    """The module's tests run in a network namespace of their own."""
    namespace = Namespace(LocalHost(folder))
    with namespace.entered():
        yield
    namespace.close()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.kernel)


@pytest.fixture
def options(request: pytest.FixtureRequest) -> tuple[str, ...]:
    """Options that choose nftables, through one driver: both do the same but load and list.

    `@BOTH` has a test run for the other one as well.
    """
    return ("--backend", "nftables", "--driver", getattr(request, "param", "libnftables"))


@pytest.fixture(params=DRIVERS, ids="-".join)
def every_way(request: pytest.FixtureRequest) -> tuple[str, ...]:
    """Options that choose one way to the kernel."""
    backend, driver = request.param
    return ("--backend", backend, "--driver", driver)


@pytest.fixture(params=[d for d in DRIVERS if d[1] != "iptc"], ids="-".join)
def way(request: pytest.FixtureRequest) -> tuple[str, ...]:
    """As `every_way`, without iptc: it does what legacy does, as tests of its own prove, and is slow."""
    backend, driver = request.param
    return ("--backend", backend, "--driver", driver)


@pytest.fixture
def processes(network: Network) -> Iterator[Processes]:
    made = Processes(network)
    yield made
    made.close()


@pytest.fixture
def started(network: Network) -> Iterator[Callable[..., AgentProcess]]:
    with ExitStack() as stack:

        def start(text: str, *words: str) -> AgentProcess:
            path = network.folder / "lbctl.toml"
            path.write_text(text)
            agent = AgentProcess(network, *words, config=path)
            stack.callback(agent.kill)
            return agent.ready()

        yield start


@pytest.fixture
def serving(processes: Processes, started: Callable[..., AgentProcess]) -> Serving:
    def begin(text: str, *words: str, ports: Sequence[int] = PORTS) -> AgentProcess:
        processes.start(*ports)
        return started(text, *words).up(*map(str, ports))

    return begin
