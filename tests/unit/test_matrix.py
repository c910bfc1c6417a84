"""The page of platforms is what `make matrix` recorded, which names every platform and driver."""

from dataclasses import replace
from pathlib import Path

import pytest

from matrix import result, table
from matrix.archive import file_name
from matrix.releases import RELEASES
from matrix.result import DriverResult, Outcome


@pytest.fixture(name="recorded", scope="module")
def _recorded() -> result.Result:
    return result.read()


def test_the_page_is_what_was_recorded(recorded: result.Result) -> None:
    assert table.DOCUMENT.read_text(encoding="utf-8") == table.document(recorded)


def test_every_platform_and_driver_is_recorded(recorded: result.Result) -> None:
    assert [each.release for each in recorded.platforms] == [each.name for each in RELEASES]
    for release, platform in zip(RELEASES, recorded.platforms, strict=True):
        assert list(map(str, platform.drivers)) == list(map(str, release.drivers))
        assert platform.own_python is release.hosts_lbctl
        assert (platform.tests is not None) is release.tests


def test_every_driver_has_the_same_checks_and_every_backend_the_same_dumps(recorded: result.Result) -> None:
    drivers = [driver for each in recorded.platforms for driver in each.drivers if not driver.unusable]
    assert len({tuple(driver.features) for driver in drivers}) == 1
    for backend in ("nftables", "iptables"):
        counts = {len(driver.dumps) for driver in drivers if driver.backend == backend}
        assert len(counts) == 1
        assert 0 not in counts


def test_every_driver_of_nftables_works_over_the_tables_of_every_other_release(
    recorded: result.Result,
) -> None:
    for platform in recorded.platforms:
        others = {release.name for release in RELEASES} - {platform.release}
        for driver in platform.drivers:
            assert set(driver.foreign) == (others if driver.backend == "nftables" else set())


YES, WRONG = Outcome.of(""), Outcome.of("no answer")
NFT = DriverResult(
    backend="nftables",
    driver="nft",
    unusable="",
    features={"tcp": YES},
    dumps={"nft list ruleset": YES},
    foreign={"forky": YES},
)


@pytest.mark.parametrize(
    ("driver", "failure"),
    [
        (NFT, ""),
        (replace(NFT, features={"tcp": WRONG}), "nftables nft: tcp: no answer"),
        (replace(NFT, dumps={"nft list ruleset": WRONG}), "nftables nft: dump nft list ruleset: no answer"),
        (replace(NFT, foreign={"forky": WRONG}), "nftables nft: tables of forky: no answer"),
        (replace(NFT, features={}), "nftables nft: nothing was tested"),
        (replace(NFT, dumps={}), "nftables nft: nothing was tested"),
        (replace(NFT, unusable="not installed"), "nftables nft: not usable: not installed"),
        (replace(NFT, backend="iptables", driver="iptc", unusable="not for 1.8.11"), ""),
    ],
)
def test_what_counts_as_a_failure(recorded: result.Result, driver: DriverResult, failure: str) -> None:
    platform = replace(recorded.platforms[0], drivers=(driver,), tour=YES, tests=None)
    wanted = [f"{platform.release}: {failure}"] if failure else []
    assert list(result.failures(platform)) == wanted


@pytest.mark.parametrize("outcome", [YES, WRONG, Outcome.parse("refused: scheduler maglev: no map")])
def test_an_outcome_is_read_as_it_was_written(outcome: Outcome) -> None:
    assert Outcome.parse(str(outcome)) == outcome


def test_a_result_is_read_as_it_was_written(recorded: result.Result, tmp_path: Path) -> None:
    platform = replace(recorded.platforms[0], drivers=(NFT,), tour=WRONG, tests=YES)
    written = replace(recorded, platforms=(platform,))
    result.write(written, tmp_path / "recorded.json")
    assert result.read(tmp_path / "recorded.json") == written


@pytest.mark.parametrize("part", ["tour", "tests"])
def test_the_tour_and_the_tests_count(recorded: result.Result, part: str) -> None:
    platform = replace(recorded.platforms[0], drivers=(), tour=YES, tests=YES)
    assert list(result.failures(platform)) == []
    assert len(list(result.failures(replace(platform, **{part: WRONG})))) == 1


@pytest.mark.parametrize(
    ("planned", "name"),
    [
        ("Inst bash (5.3-4 Debian:testing [amd64])", "bash_5.3-4_amd64.deb"),
        ("Inst netbase (6.4 Debian:12.12/oldstable [all]) []", "netbase_6.4_all.deb"),
        ("Inst libgcc-s1 (4:14.2-1 Debian:13 [amd64]) [libc6:amd64 ]", "libgcc-s1_4%3a14.2-1_amd64.deb"),
    ],
)
def test_the_archive_of_a_planned_package_is_found(planned: str, name: str) -> None:
    assert file_name(planned) == name


def test_nothing_in_the_record_is_wrong(recorded: result.Result) -> None:
    assert [line for platform in recorded.platforms for line in result.failures(platform)] == []
