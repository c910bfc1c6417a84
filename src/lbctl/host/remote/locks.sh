# Locks for a host that has no flock: a file that names the process that holds it. Read by both other scripts;
# `boot` is the identity of the boot.
#
# A file gets its place by link(2), when its contents are complete: there is never a lock without a holder. To
# remove that of a process that is gone, it is renamed first. If another process took the lock in between, the
# file goes back; whoever takes the lock in that moment sees it below its other name, and gives way.

# started PID: have $start be the time at which it started, in ticks since the boot; fails if there is none.
started() {
    start=
    { IFS= read -r start <"/proc/$1/stat"; } 2>/dev/null || return 1
    # The name of the program may have blanks and parentheses in it.
    # shellcheck disable=SC2086
    set -- ${start##*) }
    start=${20:-}
}

# living LOCK: true if the process that it names is there.
living() {
    pid='' since='' began=''
    { IFS=' ' read -r pid since began <"$1"; } 2>/dev/null
    case $pid in '' | *[!0-9]*) return 1 ;; esac
    [ "$since" = "$boot" ] && started "$pid" && [ "$began" = "$start" ]
}

# displaced LOCK: true if another process holds it whose file was renamed by mistake.
displaced() {
    set +f
    for each in "$1".gone.*; do
        set -f
        if ! living "$each"; then rm -f "$each"; elif [ "$pid" != "$$" ]; then return 0; fi
    done
    set -f
    return 1
}

# take_out LOCK: remove it, unless another process holds it.
take_out() {
    moves=$((${moves:-0} + 1))
    aside=$1.gone.$$.$moves
    mv -f "$1" "$aside" 2>/dev/null || return 0
    if living "$aside" && [ "$pid" != "$$" ]; then
        if ln "$aside" "$1" 2>/dev/null; then rm -f "$aside"; fi
        return 1
    fi
    rm -f "$aside"
}

# claim LOCK: hold it, until `release`; fails if another process does.
claim() {
    # link(2) would put it into a directory.
    [ ! -d "$1" ] || rm -rf "$1"
    # What an earlier try left, if another process renamed it in that moment.
    release "$1"
    started "$$"
    claimed=1
    printf '%s %s %s\n' "$$" "$boot" "$start" >"$1.new.$$" || return 1
    if ln "$1.new.$$" "$1" 2>/dev/null ||
        { ! living "$1" && take_out "$1" && ln "$1.new.$$" "$1" 2>/dev/null; }; then
        if displaced "$1"; then release "$1"; else claimed=0; fi
    fi
    rm -f "$1.new.$$"
    return "$claimed"
}

# release LOCK: let go of it, if this process holds it.
release() {
    set +f
    for each in "$1".gone.*; do
        set -f
        if living "$each" && [ "$pid" = "$$" ]; then rm -f "$each"; fi
    done
    set -f
    if living "$1" && [ "$pid" = "$$" ]; then take_out "$1"; fi
}
