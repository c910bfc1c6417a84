"""What holds for all tests."""

import signal

import pytest
from hypothesis import settings

from support.documents import validate_what_is_printed

# A time limit for each example measures what else this machine does. A test that hangs has `timeout`.
settings.register_profile("patient", deadline=None)
# make test-fast: make test has as many examples as Hypothesis finds enough.
settings.register_profile("fast", settings.get_profile("patient"), max_examples=30)
settings.load_profile("patient")

# A shell starts background jobs with SIGINT ignored, and a program that was started so ignores Ctrl-C.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def _documents_are_valid(monkeypatch: pytest.MonkeyPatch) -> None:
    validate_what_is_printed(monkeypatch)
