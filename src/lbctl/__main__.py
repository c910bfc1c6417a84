"""The program `lbctl`, also as `python -m lbctl`: only what has to be there before the first import."""

import gc
import os
import signal
import sys
from types import FrameType

#: 128 and the number of SIGINT, as a shell has it.
_INTERRUPTED = 130


def start() -> None:
    """Run lbctl; Ctrl-C ends it with 130 and no traceback, be it while Python still imports."""
    # A short life with up to a million values and no cycles: looking for cycles costs a quarter of the time
    # of a large change, and of a small one 5 %, while modules are imported.
    gc.disable()
    answers = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if answers:
        signal.signal(signal.SIGINT, _leave)
    from lbctl.cli import main

    if answers:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        main()
    except KeyboardInterrupt:  # while it reports how it ended
        sys.exit(_INTERRUPTED)
    finally:
        # The exit code is known: nothing may come between it and the end.
        signal.signal(signal.SIGINT, signal.SIG_IGN)


def _leave(_number: int, _frame: FrameType | None) -> None:
    sys.stderr.flush()
    os._exit(_INTERRUPTED)


if __name__ == "__main__":
    start()
