"""Equal rules are read alike, whatever their syntax."""

import pytest

from lbctl_iptables.reading import read as read_saved
from lbctl_nftables.reading import read as read_native
from support.twins import PAIRS, UNEQUAL, differences, native, saved

#: Pairs that the readers do not yet read alike. A case that does must leave this list.
NOT_YET: frozenset[str] = frozenset(
    {
        "03 marks of new connections",
        "04 marks of all packets",
        "05 a counter before the port",
        "06 two ports",
        "08 rungs behind the last one",
        "09 an exemption by source and port",
        "10 a port ahead of a range",
        "14 a rung for another port",
        "15 ranges",
        "16 a rate ahead of a ladder",
        "18 the same twice",
        "19 a draw before one counter",
        "20 marks that the filter drops",
        "21 not from a link",
        "22 not from a network",
        "23 from some links",
        "25 of a user",
        "26 by a masked mark",
        "27 by the link's address",
        "28 all ports but one",
        "29 all addresses but one",
        "30 not to this host",
        "34 by DSCP",
        "35 a link let past",
    }
)


@pytest.mark.parametrize("name", PAIRS)
def test_both_syntaxes_of_a_pair_mean_the_same(name: str) -> None:
    found = differences(read_saved(saved(*PAIRS[name])), read_native(native(*PAIRS[name])))
    if name in NOT_YET or name in UNEQUAL:
        assert found, f"{name} is read alike: take it off the list"
    else:
        assert found == []
