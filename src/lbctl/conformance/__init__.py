"""The conformance suite: what makes a backend one of lbctl, proved on the real kernel.

    python -m lbctl.conformance [--backend NAME] [--driver NAME] [--output text|json]
    pytest --pyargs lbctl.conformance

Each check is an intent and what real connections must show, in private network namespaces that nobody else
sees; it needs root. A backend does what an intent says, or refuses it by name; anything else is a failure.
"""

import lbctl.conformance.dealing
import lbctl.conformance.forwarding
import lbctl.conformance.listeners  # noqa: F401 (these register their checks)
from lbctl.conformance.checks import CHECKS, ConformanceCheck
from lbctl.conformance.run import CheckResult, Support, run
from lbctl.conformance.site import DriverUnderTest, Failed, Site, ways

__all__ = [
    "CHECKS",
    "CheckResult",
    "ConformanceCheck",
    "DriverUnderTest",
    "Failed",
    "Site",
    "Support",
    "run",
    "ways",
]
