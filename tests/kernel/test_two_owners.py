"""A plan names the other owner whose rules take the same connections."""

from support.network import Network, intent, service

FIRST = intent(service("web", ["80/tcp", "443/tcp"], "8001", "8002"))


def second(listen: str | list[str]) -> str:
    return intent(service("shop", listen, "9001"), owner="second")


def test_an_overlapping_listener_is_noted(network: Network, way: tuple[str, ...]) -> None:
    assert network.lbctl("apply", "--yes", *way, config=FIRST).code == 0
    plan = network.lbctl("plan", *way, config=second("80/tcp"))
    assert 'Note: Owner "lbctl" balances 80/tcp (service "web") too. ' in plan.out
    assert "443/tcp" not in plan.out
    applied = network.lbctl("apply", "--yes", *way, config=second("192.0.2.1:443/tcp"))
    assert applied.code == 0
    assert 'Owner "lbctl" balances 192.0.2.1:443/tcp (service "web") too.' in applied.out
    [note] = network.lbctl(
        "plan",
        "--output",
        "json",
        *way,
        config=intent(service("web", ["80/tcp", "443/tcp"], "8001")),
    ).json["notes"][:1]
    assert note.startswith('Owner "second" balances 443/tcp (service "shop") too.')
    assert note.endswith("lbctl remove --owner second")
    # It stays true once that is applied.
    again = network.lbctl("plan", *way, config=FIRST)
    assert 'Owner "second" balances 443/tcp (service "shop") too.' in again.out
    assert "Nothing to change" in again.out
    shown = network.lbctl("status", *way, config=FIRST)
    assert '  owner "second" balances 443/tcp (service "shop") too' in shown.out.splitlines()[:5]
    assert network.lbctl("status", *way, "--output", "json", config=FIRST).json["overlaps"] == [
        {"owner": "second", "listener": "443/tcp", "service": "shop"}
    ]


def test_doctor_names_the_command_for_the_other_owner(network: Network, way: tuple[str, ...]) -> None:
    assert network.lbctl("apply", "--yes", *way, config=FIRST).code == 0
    assert network.lbctl("apply", "--yes", *way, config=second("80/tcp")).code == 0
    for config, other in ((FIRST, "second"), (second("80/tcp"), "lbctl")):
        found = network.lbctl("doctor", *way, "--output", "json", config=config).json["problems"]
        fixes = [each["remedy"] for each in found if each["code"] == "listener-taken"]
        wanted = f"take the listener out of one intent file, or run: lbctl remove --owner {other}"
        # Of two at one point, the one that was loaded first is in front of the other in iptables.
        assert set(fixes) <= {wanted}
        assert fixes or way[1] != "nftables"


def test_other_listeners_and_removed_owners_are_no_overlap(network: Network, way: tuple[str, ...]) -> None:
    assert network.lbctl("apply", "--yes", *way, config=FIRST).code == 0
    others = second(["81/tcp", "80/udp"])
    assert "Owner" not in network.lbctl("plan", *way, config=others).out
    assert network.lbctl("remove", "--yes", *way, config=FIRST).code == 0
    assert "Owner" not in network.lbctl("plan", *way, config=second("80/tcp")).out


def test_rules_that_are_no_longer_in_the_kernel_are_no_overlap(network: Network) -> None:
    assert network.lbctl("apply", "--yes", "--backend", "nftables", config=FIRST).code == 0
    for family in ("ip", "ip6"):
        network.tool("nft", "delete", "table", family, "lbctl")
    assert "Owner" not in network.lbctl("plan", config=second("80/tcp")).out


def test_the_other_owner_may_use_another_backend(network: Network) -> None:
    assert network.lbctl("apply", "--yes", "--backend", "iptables", config=FIRST).code == 0
    found = network.lbctl("plan", "--backend", "nftables", config=second("80/tcp")).out
    assert 'Owner "lbctl" balances 80/tcp (service "web") too.' in found
