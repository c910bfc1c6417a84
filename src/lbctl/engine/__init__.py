"""The use cases. They neither print nor read arguments; the command line and tests call them alike.

Each is imported when it is asked for: a command starts without the others.
"""

from typing import TYPE_CHECKING

from lbctl.lazy import importer

if TYPE_CHECKING:
    from lbctl.engine.change.apply import apply, remove
    from lbctl.engine.change.operate import Operated, Operation, activate, drain, operate, weigh
    from lbctl.engine.change.plan import describe, describe_plan, plan, plan_against, removal
    from lbctl.engine.change.planfile import PlanFile, is_plan_file, read_plan, resume, write_plan
    from lbctl.engine.change.render import Rendering, render
    from lbctl.engine.change.session import Session, open_session
    from lbctl.engine.inspect.annotate import annotate, in_recorded_order
    from lbctl.engine.inspect.drained import await_drained, connections_left
    from lbctl.engine.inspect.status import (
        Drift,
        EndpointStatus,
        FamilyStatus,
        ServiceStatus,
        Status,
        drift,
        status,
    )
    from lbctl.engine.migrate.execute import run_migration
    from lbctl.engine.migrate.foreign import SharePolicy
    from lbctl.engine.migrate.migration import Agreement, Migration
    from lbctl.engine.migrate.plan import nothing_to_migrate, plan_migration
    from lbctl.engine.record.history import (
        Difference,
        HistoryEntry,
        damaged,
        difference,
        entries,
        pending,
        restorable,
        rolled_back,
        state,
    )
    from lbctl.engine.record.trial import (
        PromisedFile,
        Trial,
        confirm,
        ensure_ended,
        read_trial,
        take_promise,
    )
    from lbctl.engine.record.unsettled import Unsettled, interrupted, unsettled
    from lbctl.engine.undo.recovery import recover
    from lbctl.engine.undo.reverter import await_end, ensure_revertible, try_out, watch
    from lbctl.engine.undo.rollback import go_back, roll_back

_HOMES = {
    "change.apply": ("apply", "remove"),
    "change.operate": ("Operated", "Operation", "activate", "drain", "operate", "weigh"),
    "change.plan": ("describe", "describe_plan", "plan", "plan_against", "removal"),
    "change.planfile": ("PlanFile", "is_plan_file", "read_plan", "resume", "write_plan"),
    "change.render": ("Rendering", "render"),
    "change.session": ("Session", "open_session"),
    "inspect.annotate": ("annotate", "in_recorded_order"),
    "inspect.drained": ("await_drained", "connections_left"),
    "inspect.status": (
        "Drift",
        "EndpointStatus",
        "FamilyStatus",
        "ServiceStatus",
        "Status",
        "drift",
        "status",
    ),
    "migrate.execute": ("run_migration",),
    "migrate.foreign": ("SharePolicy",),
    "migrate.migration": ("Agreement", "Migration"),
    "migrate.plan": ("nothing_to_migrate", "plan_migration"),
    "record.history": (
        "Difference",
        "HistoryEntry",
        "damaged",
        "difference",
        "entries",
        "pending",
        "restorable",
        "rolled_back",
        "state",
    ),
    "record.trial": ("PromisedFile", "Trial", "confirm", "ensure_ended", "read_trial", "take_promise"),
    "record.unsettled": ("Unsettled", "interrupted", "unsettled"),
    "undo.recovery": ("recover",),
    "undo.reverter": ("await_end", "ensure_revertible", "try_out", "watch"),
    "undo.rollback": ("go_back", "roll_back"),
}

__all__ = [
    "Agreement",
    "Difference",
    "Drift",
    "EndpointStatus",
    "FamilyStatus",
    "HistoryEntry",
    "Migration",
    "Operated",
    "Operation",
    "PlanFile",
    "PromisedFile",
    "Rendering",
    "ServiceStatus",
    "Session",
    "SharePolicy",
    "Status",
    "Trial",
    "Unsettled",
    "activate",
    "annotate",
    "apply",
    "await_drained",
    "await_end",
    "confirm",
    "connections_left",
    "damaged",
    "describe",
    "describe_plan",
    "difference",
    "drain",
    "drift",
    "ensure_ended",
    "ensure_revertible",
    "entries",
    "go_back",
    "in_recorded_order",
    "interrupted",
    "is_plan_file",
    "nothing_to_migrate",
    "open_session",
    "operate",
    "pending",
    "plan",
    "plan_against",
    "plan_migration",
    "read_plan",
    "read_trial",
    "recover",
    "removal",
    "remove",
    "render",
    "restorable",
    "resume",
    "roll_back",
    "rolled_back",
    "run_migration",
    "state",
    "status",
    "take_promise",
    "try_out",
    "unsettled",
    "watch",
    "weigh",
    "write_plan",
]

__getattr__ = importer(__name__, _HOMES)
