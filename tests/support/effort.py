"""How much work something takes, however busy the machine is."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def cpu_seconds(limit: float) -> Iterator[None]:
    """Fail if what is done inside takes more CPU time of this process: for what takes minutes if wrong."""
    begin = time.process_time()
    yield
    assert time.process_time() - begin < limit


def calls(work: Callable[[], object]) -> int:
    """The functions that some work calls, which is the same number each time."""
    number = 0

    def count(_frame: FrameType, event: str, _argument: object) -> None:
        nonlocal number
        number += event in {"call", "c_call"}

    before = sys.getprofile()
    sys.setprofile(count)
    try:
        work()
    finally:
        sys.setprofile(before)
    return number
