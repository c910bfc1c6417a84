"""Plan files on the real kernel: what the kernel holds decides."""

from support.network import Network, intent, service

WEB = intent(service("web", "80/tcp", "8001", "8002", "8003"))
LESS = intent(service("web", "80/tcp", "8001", "8002"))


def test_a_plan_is_for_the_rules_that_it_saw(network: Network, way: tuple[str, ...]) -> None:
    file = str(network.folder / "web.plan")
    assert network.lbctl("plan", "-o", file, *way, config=WEB).code == 0
    assert network.lbctl("apply", "--yes", *way, config=LESS).code == 0
    held = network.rules()
    (network.folder / "lbctl.toml").write_text(WEB)
    stale = network.lbctl("apply", file, "--yes")
    assert (stale.code, stale.out) == (7, "")
    assert 'the kernel changed since the plan was made: service "web"' in stale.err
    assert network.rules() == held
    assert network.lbctl("plan", "-o", file, *way, config=WEB).code == 0
    done = network.lbctl("apply", file, "--yes", "--output", "json")
    assert (done.code, done.json["driver"], done.json["applied"]) == (0, way[3], True)
    assert network.lbctl("plan", "--exit-code", *way, config=WEB).code == 0
