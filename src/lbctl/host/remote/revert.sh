# Reverts a trial on a host that has nothing of lbctl, unless the trial is over before its time. Constant: what
# is done is in files beside this one.
#
#     ident      what the record of the trial holds while it is this one
#     deadline   seconds since the host started
#     run.N      words of a program, one a line; in.N is its standard input
#     after/     files of the state to put in place, gone the names of those to remove

dir=$1 run=$2 shelf=$3 lock=$4 guard=$5 record=$6 boot=$7 flock=$8
trap '' HUP
umask 077
set +e +u -f

# take NAME DESCRIPTOR
take() {
    if [ -z "$flock" ]; then claim "$run/$1.d"; else eval "exec $2>>\"\$run/\$1\"" && flock -n "$2"; fi
}

# give NAME DESCRIPTOR
give() {
    if [ -z "$flock" ]; then release "$run/$1.d"; else eval "exec $2>&-"; fi
}

running() {
    IFS= read -r ident <"$dir/ident" || return 1
    text=$(cat "$shelf/$record" 2>/dev/null)
    case $text in
        *"\"ident\": \"$ident\", \"state\": \"running\""*) return 0 ;;
    esac
    return 1
}

due() {
    up='' rest='' at=''
    IFS=' .' read -r up rest </proc/uptime
    read -r at <"$dir/deadline"
    [ "$up" -ge "$at" ]
}

# restore: run every program that has not succeeded yet.
restore() {
    number=1
    while [ -f "$dir/run.$number" ]; do
        if [ ! -f "$dir/done.$number" ]; then
            set --
            while IFS= read -r word; do set -- "$@" "$word"; done <"$dir/run.$number"
            "$@" <"$dir/in.$number" >"$dir/out" 2>"$dir/err" || return 1
            : >"$dir/done.$number"
        fi
        number=$((number + 1))
    done
}

record_end() {
    set +f
    for path in "$dir"/after/*; do
        [ -f "$path" ] || continue
        name=${path##*/}
        cp "$path" "$shelf/.$name.$$.new" && mv -f "$shelf/.$name.$$.new" "$shelf/$name"
    done
    set -f
    while IFS= read -r name; do
        case $name in '' | .* | */*) ;; *) rm -f "$shelf/$name" ;; esac
    done <"$dir/gone"
}

tries=50
until take "$guard" 8; do
    tries=$((tries - 1))
    [ "$tries" -gt 0 ] || exit 1
    sleep 1
done
: >"$dir/ready"
tries=60
while running && [ "$tries" -gt 0 ]; do
    if due && take "$lock" 7; then
        if running && restore; then
            record_end
        else
            tries=$((tries - 1))
        fi
        give "$lock" 7
    fi
    sleep 1
done
give "$guard" 8
rm -rf "$dir"
