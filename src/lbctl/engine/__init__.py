"""The use cases. They neither print nor read arguments; the command line and tests call them alike.

Each is imported when it is asked for: a command starts without the others.
"""

from lbctl.lazy import imported_on_use

with imported_on_use(globals()):
    from lbctl.engine.change.apply import apply as apply, remove as remove
    from lbctl.engine.change.operate import (
        Operated as Operated,
        Operation as Operation,
        activate as activate,
        drain as drain,
        operate as operate,
        weigh as weigh,
    )
    from lbctl.engine.change.plan import (
        describe as describe,
        describe_plan as describe_plan,
        plan as plan,
        plan_against as plan_against,
        removal as removal,
    )
    from lbctl.engine.change.planfile import (
        PlanFile as PlanFile,
        is_plan_file as is_plan_file,
        read_plan as read_plan,
        resume as resume,
        write_plan as write_plan,
    )
    from lbctl.engine.change.render import Rendering as Rendering, render as render
    from lbctl.engine.change.session import Session as Session, open_session as open_session
    from lbctl.engine.inspect.annotate import annotate as annotate, in_recorded_order as in_recorded_order
    from lbctl.engine.inspect.drained import (
        await_drained as await_drained,
        connections_left as connections_left,
    )
    from lbctl.engine.inspect.status import (
        Drift as Drift,
        EndpointStatus as EndpointStatus,
        FamilyStatus as FamilyStatus,
        ServiceStatus as ServiceStatus,
        Status as Status,
        drift as drift,
        status as status,
    )
    from lbctl.engine.migrate.execute import run_migration as run_migration
    from lbctl.engine.migrate.foreign import SharePolicy as SharePolicy
    from lbctl.engine.migrate.migration import Agreement as Agreement, Migration as Migration
    from lbctl.engine.migrate.plan import (
        nothing_to_migrate as nothing_to_migrate,
        plan_migration as plan_migration,
    )
    from lbctl.engine.record.history import (
        Difference as Difference,
        HistoryEntry as HistoryEntry,
        damaged as damaged,
        difference as difference,
        entries as entries,
        pending as pending,
        restorable as restorable,
        rolled_back as rolled_back,
        state as state,
    )
    from lbctl.engine.record.trial import (
        PromisedFile as PromisedFile,
        Trial as Trial,
        confirm as confirm,
        ensure_ended as ensure_ended,
        read_trial as read_trial,
        take_promise as take_promise,
    )
    from lbctl.engine.record.unsettled import (
        Unsettled as Unsettled,
        interrupted as interrupted,
        unsettled as unsettled,
    )
    from lbctl.engine.undo.recovery import recover as recover
    from lbctl.engine.undo.reverter import (
        await_end as await_end,
        ensure_revertible as ensure_revertible,
        try_out as try_out,
        watch as watch,
    )
    from lbctl.engine.undo.rollback import go_back as go_back, roll_back as roll_back
