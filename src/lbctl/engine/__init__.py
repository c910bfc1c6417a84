"""The use cases. They neither print nor read arguments; the command line and tests call them alike."""

from lbctl.engine.change import apply, describe, plan, removal
from lbctl.engine.planfile import PlanFile, digest_of, read_plan, resume, write_plan
from lbctl.engine.session import Session, compile_for, open_session
from lbctl.engine.status import EndpointStatus, ServiceStatus, Status, status

__all__ = [
    "EndpointStatus",
    "PlanFile",
    "ServiceStatus",
    "Session",
    "Status",
    "apply",
    "compile_for",
    "describe",
    "digest_of",
    "open_session",
    "plan",
    "read_plan",
    "removal",
    "resume",
    "status",
    "write_plan",
]
