"""One check, one driver, one outcome."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING

from lbctl.conformance.site import Failed, Site
from lbctl.errors import LbctlError
from lbctl.values import dataclass

if TYPE_CHECKING:
    from lbctl.conformance.checks import ConformanceCheck
    from lbctl.conformance.site import DriverUnderTest


class Support(StrEnum):
    """How a backend stands to a check."""

    YES = "yes"
    REFUSED = "refused"
    FAILED = "FAIL"


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckResult:
    """What came of a check; `reason` is empty for yes."""

    check: ConformanceCheck
    way: DriverUnderTest
    verdict: Support
    reason: str = ""


def run(check: ConformanceCheck, way: DriverUnderTest) -> CheckResult:
    """Carry out a check in a network of its own."""
    try:
        with Site(way, allow_remap=check.allow_remap) as site:
            refused = site.refusal(check.services, check.offload)
            if refused is not None:
                return CheckResult(check=check, way=way, verdict=Support.REFUSED, reason=refused.feature)
            check.run(site)
    except (Failed, LbctlError) as error:
        return CheckResult(check=check, way=way, verdict=Support.FAILED, reason=str(error))
    except Exception as error:  # noqa: BLE001 (somebody else's backend: the other checks go on)
        reason = f"{type(error).__name__}: {error}"
        return CheckResult(check=check, way=way, verdict=Support.FAILED, reason=reason)
    return CheckResult(check=check, way=way, verdict=Support.YES)
