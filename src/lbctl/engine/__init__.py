"""The use cases. They neither print nor read arguments; the command line and tests call them alike."""

from lbctl.engine.change import apply, describe, plan, removal
from lbctl.engine.history import Entry, damaged, entries, pending, restorable
from lbctl.engine.migrate.execute import migrate
from lbctl.engine.migrate.foreign import SharePolicy
from lbctl.engine.migrate.migration import Agreement, Migration
from lbctl.engine.migrate.plan import plan_migration
from lbctl.engine.planfile import PlanFile, read_plan, resume, write_plan
from lbctl.engine.recovery import Unsettled, interrupted, recover, unsettled
from lbctl.engine.rendering import Rendering, render
from lbctl.engine.returning import go_back, roll_back
from lbctl.engine.reverter import await_end, try_out, watch
from lbctl.engine.session import Session, open_session
from lbctl.engine.status import Drift, EndpointStatus, FamilyStatus, ServiceStatus, Status, drift, status
from lbctl.engine.trial import Trial, confirm, read_trial

__all__ = [
    "Agreement",
    "Drift",
    "EndpointStatus",
    "Entry",
    "FamilyStatus",
    "Migration",
    "PlanFile",
    "Rendering",
    "ServiceStatus",
    "Session",
    "SharePolicy",
    "Status",
    "Trial",
    "Unsettled",
    "apply",
    "await_end",
    "confirm",
    "damaged",
    "describe",
    "drift",
    "entries",
    "go_back",
    "interrupted",
    "migrate",
    "open_session",
    "pending",
    "plan",
    "plan_migration",
    "read_plan",
    "read_trial",
    "recover",
    "removal",
    "render",
    "restorable",
    "resume",
    "roll_back",
    "status",
    "try_out",
    "unsettled",
    "watch",
    "write_plan",
]
