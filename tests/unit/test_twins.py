"""Equal rules are read alike, whatever their syntax."""

import pytest

from lbctl_iptables.reading import read as read_saved
from lbctl_nftables.reading.read import read as read_native
from support.twins import PAIRS, UNEQUAL, differences, native, saved


@pytest.mark.parametrize("name", PAIRS)
def test_both_syntaxes_of_a_pair_mean_the_same(name: str) -> None:
    found = differences(read_saved(saved(*PAIRS[name])), read_native(native(*PAIRS[name])))
    if name in UNEQUAL:
        assert found, f"{name} is read alike: take it off the list"
    else:
        assert found == []
