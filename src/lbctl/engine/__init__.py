"""The use cases. They neither print nor read arguments; the command line and tests call them alike."""

from lbctl.engine.change import apply, describe, plan, removal, roll_back
from lbctl.engine.history import Entry, entries, restorable
from lbctl.engine.planfile import PlanFile, read_plan, resume, write_plan
from lbctl.engine.session import Session, compile_for, open_session
from lbctl.engine.status import EndpointStatus, ServiceStatus, Status, status

__all__ = [
    "EndpointStatus",
    "Entry",
    "PlanFile",
    "ServiceStatus",
    "Session",
    "Status",
    "apply",
    "compile_for",
    "describe",
    "entries",
    "open_session",
    "plan",
    "read_plan",
    "removal",
    "restorable",
    "resume",
    "roll_back",
    "status",
    "write_plan",
]
