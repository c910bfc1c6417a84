"""Pure values: intents, slots, programs, plans. Nothing here reads or writes anything."""

from lbctl.lazy import imported_on_use

# At once: its module has the same name, and would be found instead.
from lbctl.model.schedule import schedule as schedule

with imported_on_use(globals()):
    from lbctl.model.access import (
        ConsulAccess as ConsulAccess,
        DockerAccess as DockerAccess,
        EtcdAccess as EtcdAccess,
        KubernetesAccess as KubernetesAccess,
        TlsFiles as TlsFiles,
        check_server as check_server,
        server_place as server_place,
    )
    from lbctl.model.analysis import (
        Affinity as Affinity,
        AnalysedService as AnalysedService,
        Analysis as Analysis,
        Condition as Condition,
        EndpointShare as EndpointShare,
        Finding as Finding,
        PathEnd as PathEnd,
        Step as Step,
        UnsupportedRule as UnsupportedRule,
        among as among,
        conditions as conditions,
        takes as takes,
        unmatched as unmatched,
        with_port as with_port,
        within as within,
    )
    from lbctl.model.announce import NO_ANNOUNCEMENTS as NO_ANNOUNCEMENTS, Announcements as Announcements
    from lbctl.model.answer import Discovered as Discovered
    from lbctl.model.changes import (
        KeyChange as KeyChange,
        Value as Value,
        given_settings as given_settings,
        intent_changes as intent_changes,
        service_changes as service_changes,
    )
    from lbctl.model.check import (
        DEFAULT_POLICY as DEFAULT_POLICY,
        AllDown as AllDown,
        Check as Check,
        CheckKind as CheckKind,
        DnsProbe as DnsProbe,
        ExecProbe as ExecProbe,
        HealthPolicy as HealthPolicy,
        HttpProbe as HttpProbe,
        Initial as Initial,
        OnDown as OnDown,
        Probe as Probe,
        RecordType as RecordType,
        StatusRange as StatusRange,
        TcpProbe as TcpProbe,
        TlsOptions as TlsOptions,
        UdpProbe as UdpProbe,
        fingerprint as fingerprint,
    )
    from lbctl.model.dealing import deal as deal, slots_for as slots_for
    from lbctl.model.discovery import (
        Discovery as Discovery,
        WeightOwner as WeightOwner,
        check_source_name as check_source_name,
        host_and_port as host_and_port,
    )
    from lbctl.model.effect import (
        MAX_WHO as MAX_WHO,
        MAX_WHY as MAX_WHY,
        Checked as Checked,
        Effective as Effective,
        Facts as Facts,
        Override as Override,
        Place as Place,
        Reason as Reason,
        effective as effective,
        emptied as emptied,
        left_to_failed as left_to_failed,
        time_of as time_of,
    )
    from lbctl.model.follow import (
        Follow as Follow,
        check_intent_name as check_intent_name,
        check_report_name as check_report_name,
    )
    from lbctl.model.forward import Forward as Forward, Hop as Hop, check_mac as check_mac
    from lbctl.model.intent import (
        DEFAULT_MARK as DEFAULT_MARK,
        DEFAULT_OWNER as DEFAULT_OWNER,
        INTERFACE as INTERFACE,
        MAX_OWNER as MAX_OWNER,
        MAX_PORT as MAX_PORT,
        MAX_SLOTS as MAX_SLOTS,
        MAX_WEIGHT as MAX_WEIGHT,
        NAME as NAME,
        Address as Address,
        Deal as Deal,
        DsrObstacle as DsrObstacle,
        Endpoint as Endpoint,
        Family as Family,
        Intent as Intent,
        Limit as Limit,
        Listener as Listener,
        Network as Network,
        Obstacle as Obstacle,
        Protocol as Protocol,
        Scheduler as Scheduler,
        Service as Service,
        SourceNat as SourceNat,
        State as State,
        check_interface as check_interface,
        check_mark as check_mark,
        check_owner as check_owner,
        default_seed as default_seed,
        dsr_obstacles as dsr_obstacles,
        endpoint_family as endpoint_family,
        join as join,
        parse_endpoint as parse_endpoint,
        split as split,
        takeover_obstacles as takeover_obstacles,
    )
    from lbctl.model.lifted import (
        FamilyListener as FamilyListener,
        LiftedProgram as LiftedProgram,
        LiftedService as LiftedService,
    )
    from lbctl.model.numbers import decimal as decimal
    from lbctl.model.plan import (
        Action as Action,
        Change as Change,
        EndpointChange as EndpointChange,
        Plan as Plan,
        Remembered as Remembered,
        ServiceChange as ServiceChange,
        Shares as Shares,
        StaleFlow as StaleFlow,
        agreed as agreed,
        diff as diff,
        diff_services as diff_services,
        families_of as families_of,
        stale_flows as stale_flows,
        touched as touched,
    )
    from lbctl.model.precedence import hidden as hidden
    from lbctl.model.program import Item as Item, Key as Key, Part as Part, Program as Program
    from lbctl.model.published import refusals as refusals, unpublishable as unpublishable
    from lbctl.model.rates import Rates as Rates
    from lbctl.model.records import Shape as Shape, check_record as check_record, read_record as read_record
    from lbctl.model.rotation import bypassed as bypassed, period as period
    from lbctl.model.schedule import shares as shares, slot_count as slot_count
    from lbctl.model.severity import Severity as Severity
    from lbctl.model.shift import Shift as Shift
    from lbctl.model.takeover import (
        Guarded as Guarded,
        guarded as guarded,
        reply_places as reply_places,
        table_digests as table_digests,
    )
    from lbctl.model.text import (
        UNITS as UNITS,
        brief as brief,
        duration as duration,
        inert as inert,
        written as written,
    )
    from lbctl.model.verdict import (
        MAX_RESULT as MAX_RESULT,
        Health as Health,
        KnownVerdicts as KnownVerdicts,
        Verdict as Verdict,
        Verdicts as Verdicts,
    )
