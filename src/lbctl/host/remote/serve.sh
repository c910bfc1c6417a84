# lbctl's side of a session on a host that has nothing but a POSIX sh: requests on standard input, answers on
# standard output, in order. Constant: all that varies comes as data, and no data is ever evaluated.
#
# A request is a line "NUMBER VERB WORDS BYTES", then one line a word, then so many bytes. An answer is a line
# "NUMBER STATUS OUT ERR", then so many bytes of output and of messages. A request that is cut short is not
# carried out: the session ends.

umask 077
LC_ALL=C
PATH=$PATH:/usr/sbin:/usr/bin:/sbin:/bin
export LC_ALL PATH
unset IFS CDPATH ENV BASH_ENV
set +e +u -f
# No program may fill the disk with what it prints: a file has at most 512 MiB, in blocks of 512 bytes.
ulimit -f 1048576 2>/dev/null

state=${LBCTL_STATE_DIR:-}
if [ -n "$state" ]; then
    run=$state/run lib=$state/lib
elif [ -d /run ]; then
    run=/run/lbctl lib=/var/lib/lbctl
else
    run=/var/run/lbctl lib=/var/lib/lbctl
fi

# What names the network namespace, since Linux 5.12: SO_NETNS_COOKIE, which takes eight bytes and no more.
case $(uname -m) in x86_64) getsockopt=55 ;; aarch64) getsockopt=209 ;; *) getsockopt= ;; esac
cookie='socket(my $s, 1, 1, 0); my ($v, $n) = ("\0" x 8, pack("L", 8));
    print unpack("Q", $v) unless syscall($ARGV[0], fileno($s), 1, 71, $v, $n)'

has() { command -v "$1" >/dev/null 2>&1; }

# safe DIRECTORY: only root decides what is in it, and it is no link.
safe() {
    [ -d "$1" ] && [ ! -L "$1" ] && guarded "$1"
}

# guarded DIRECTORY [sticky]: as safe, but for who may have made a link of it.
guarded() {
    about=$(ls -ldn "$1/.") || return 1
    case $about in
        d???????w[tT]*) [ "${2:-}" = sticky ] || return 1 ;;
        d????w* | d???????w*) return 1 ;;
    esac
    words "$about" && [ "$owner" = 0 ]
}

words() {
    # shellcheck disable=SC2086
    set -- $1
    owner=${3:-}
}

# complain TEXT: with the answer, or before there is one, among ssh's messages.
complain() {
    if [ -n "$err" ]; then printf '%s\n' "$1" >"$err"; else printf 'lbctl: %s\n' "$1" >&2; fi
    return 1
}

# Status 13 stands for what is refused since other users could have written it.
untrusted() {
    complain "$1 is a symbolic link, or other users can write to it: state that is kept there cannot be trusted"
    return 13
}

# folder DIRECTORY MODE: make it if it is missing; refuses one where another user could put files.
folder() {
    if [ ! -e "$1" ] && [ ! -L "$1" ]; then
        why=$({ (umask 022 && mkdir -p "${1%/*}") && mkdir -m "$2" "$1"; } 2>&1) ||
            [ -d "$1" ] || { complain "$why"; return; }
    fi
    [ -d "$1" ] || [ -L "$1" ] || { complain "$1 is no directory"; return; }
    { guarded "${1%/*}" sticky && safe "$1"; } || untrusted "$1"
}

# A file name of ours: one component, not hidden.
named() {
    case $1 in '' | .* | */*) complain "bad name" ;; esac
}

# file PATH: a file, and no link.
file() { [ -f "$1" ] && [ ! -L "$1" ]; }

# take BYTES FILE: exactly so many bytes of standard input, none of those behind them.
take() {
    : >"$2"
    [ "$1" -gt 0 ] || return 0
    if [ -n "$whole" ]; then
        dd bs="$1" count=1 iflag=fullblock of="$2" 2>/dev/null
        got=$(wc -c <"$2")
        [ "$got" -eq "$1" ]
        return
    fi
    got=0
    while [ "$got" -lt "$1" ]; do
        left=$(($1 - got))
        [ "$left" -le 65536 ] || left=65536
        dd bs="$left" count=1 2>/dev/null >>"$2" || return 1
        before=$got
        got=$(wc -c <"$2")
        got=$((got))
        [ "$got" -gt "$before" ] || return 1
    done
}

# writable: true if there is space for more. The file is empty but for that moment.
writable() {
    { printf x >"$dir/space"; } 2>/dev/null && [ -s "$dir/space" ] && : >"$dir/space"
}

# full: end the session since there is none.
full() {
    printf 'lbctl: %s cannot be written: no space is left there, or it is read-only\n' "$run" >&2
    exit 73
}

# answer STATUS: with what is in $out and $err. Few programs notice that the disk is full: a listing that was cut
# short may not pass for a whole one.
answer() {
    writable || full
    size=0 messages=0
    [ ! -s "$out" ] || size=$(($(wc -c <"$out")))
    [ ! -s "$err" ] || messages=$(($(wc -c <"$err")))
    printf '%s %s %s %s\n' "$number" "$1" "$size" "$messages" || exit 0
    [ "$size" -eq 0 ] || cat "$out" || exit 0
    [ "$messages" -eq 0 ] || cat "$err" || exit 0
}

# store FROM TO: a copy that is on the disk before it gets its name.
store() {
    if [ -n "$durable" ]; then
        dd if="$1" of="$2" bs=65536 conv=fsync 2>"$err"
    else
        cat "$1" >"$2" 2>"$err" && sync
    fi
}

# put FOLDER NAME: have the file hold what came in, in one step.
put() {
    named "$2" || return 1
    [ ! -d "$1/$2" ] || { complain "$2 is a directory"; return 1; }
    rm -f "$1/.$2.$$.new"
    store "$in" "$1/.$2.$$.new" && mv -f "$1/.$2.$$.new" "$1/$2" 2>"$err" && return 0
    rm -f "$1/.$2.$$.new"
    return 1
}

# first_network: true in the network namespace of process 1.
first_network() {
    one=$(ls -i /proc/1/net/dev 2>/dev/null) && own=$(ls -i /proc/self/net/dev 2>/dev/null) || return 1
    [ "${one%% *}" = "${own%% *}" ]
}

network=$(readlink /proc/self/ns/net 2>/dev/null || ls -l /proc/self/ns/net 2>/dev/null)
network=${network##*\[}
network=${network%%\]*}
case $network in '' | *[!0-9]*) network=0 ;; esac
boot=$(cat /proc/sys/kernel/random/boot_id 2>/dev/null)
mark=
if has perl && [ -n "$getsockopt" ]; then mark=$(perl -e "$cookie" "$getsockopt" 2>/dev/null); fi
# What is saved for a network namespace that is not the host's own dies with it.
if first_network; then shelf=$lib; else shelf=$run/network-$boot-${mark:-net-$network}; fi

# clock: the seconds since this host started, and since 1970.
clock() {
    IFS= read -r uptime </proc/uptime
    printf 'uptime %s\nnow %s\n' "$uptime" "$(date +%s)"
}

# byte_order: that of the kernel, as the head of each of its programs says.
byte_order() {
    case $(dd if=/proc/self/exe bs=1 skip=5 count=1 2>/dev/null | tr '\001\002' lb) in
        b) printf 'big' ;;
        *) printf 'little' ;;
    esac
}

# find_tool NAME: have $tool_path be the path of a program, if it is there.
find_tool() {
    tool_path=$1
    case $1 in /*) [ -f "$1" ] && [ -x "$1" ]; return ;; esac
    IFS=:
    for place in $PATH; do
        tool_path=$place/$1
        if [ -f "$tool_path" ] && [ -x "$tool_path" ]; then
            unset IFS
            return 0
        fi
    done
    unset IFS
    return 1
}

# describe TOOL…: the path of each and, of one that is marked since its version decides how it is used, what
# tells the file from others, and that version. A version that is remembered of the same file is not asked for
# again.
describe() {
    : >"$dir/tools"
    for tool in "$@"; do
        find_tool "${tool#+}" || continue
        printf 'tool %s %s\n' "${tool#+}" "$tool_path"
        [ "$tool" = "${tool#+}" ] || printf '%s %s\n' "${tool#+}" "$tool_path" >>"$dir/tools"
    done
    set --
    while IFS=' ' read -r tool path; do set -- "$@" "$path"; done <"$dir/tools"
    [ "$#" -gt 0 ] || return 0
    fingerprints "$@"
    while IFS=' ' read -r tool path && IFS= read -r print <&3; do
        printf 'print %s %s\n' "$path" "$print"
        remembered=
        { IFS= read -r remembered <"$run/tool.version.$tool.$network.known"; } 2>/dev/null
        [ "$remembered" = "$path $print" ] ||
            printf 'about %s %s\n' "$path" "$("$path" --version 2>/dev/null </dev/null)"
    done <"$dir/tools" 3<"$dir/prints"
}

# fingerprints FILE…: have $dir/prints hold what tells each from any that replaces it, a line each.
fingerprints() {
    stat -L -c %d:%i:%s:%Y "$@" >"$dir/prints" 2>/dev/null && return
    for each in "$@"; do fingerprint "$each"; done >"$dir/prints"
}

# fingerprint FILE
fingerprint() {
    stat -L -c %d:%i:%s:%Y "$1" 2>/dev/null || ls -lLni "$1" 2>/dev/null || printf 'gone\n'
}

# look FILE MOST: its contents, up to so many bytes and one more.
look() {
    [ -f "$1" ] || return 1
    if [ -n "$head" ]; then
        head -c "$(($2 + 1))" "$1" >"$out" 2>/dev/null
    else
        # Files of /proc are read in short blocks; `count` takes each for a whole one.
        dd if="$1" of="$out" bs=65536 count="$(($2 / 65536 + 1))" 2>/dev/null
    fi
}

# lock NAME DESCRIPTOR: hold it until this session, and all that it runs, is over.
lock() {
    named "$1" || return 1
    folder "$run" 755 || return
    [ ! -L "$run/$1" ] || { complain "$run/$1 is a symbolic link"; return 1; }
    case $2 in [5-9]) ;; *) complain "bad descriptor"; return 1 ;; esac
    if [ -n "$flock" ]; then
        eval "exec $2>>\"\$run/\$1\"" || return 1
        if flock -n "$2"; then
            printf '%-15s\n' "$$" | dd of="$run/$1" conv=notrunc 2>/dev/null
            return 0
        fi
        eval "exec $2>&-"
        holder=
        IFS= read -r holder <"$run/$1"
    else
        if claim "$run/$1.d"; then
            locks="$locks
$run/$1.d"
            return 0
        fi
        holder=
        { IFS= read -r holder <"$run/$1.d"; } 2>/dev/null
    fi
    holder=${holder%% *}
    printf '%s' "$holder" >"$out"
    case $holder in '' | *[!0-9]*) ;; *) printf ' ' >>"$out"; tr '\000' ' ' <"/proc/$holder/cmdline" 2>/dev/null >>"$out" ;; esac
    return 2
}

# unlock NAME DESCRIPTOR
unlock() {
    named "$1" || return 1
    case $2 in [5-9]) ;; *) return 1 ;; esac
    if [ -n "$flock" ]; then
        eval "exec $2>&-"
    else
        release "$run/$1.d"
    fi
}

# held NAME: true while a process holds the lock.
held() {
    named "$1" || return 1
    if [ -n "$flock" ]; then
        safe "$run" && file "$run/$1" || return 1
        ! (flock -n 4) 4<"$run/$1"
    else
        living "$run/$1.d" || displaced "$run/$1.d"
    fi
}

# every FOLDER SUFFIX SMALL: all files of ours there, each as a line "+ BYTES NAME" and its contents, or, if it
# has more than so many bytes, as "- BYTES NAME".
every() {
    [ -d "$1" ] || return 0
    { guarded "${1%/*}" sticky && safe "$1"; } || { untrusted "$1"; return; }
    set +f
    for path in "$1"/*"$2"; do
        set -f
        name=${path##*/}
        case $name in *[!A-Za-z0-9._-]*) continue ;; esac
        file "$path" && size=$(($(wc -c <"$path"))) || continue
        if [ "$size" -gt "$3" ]; then
            printf -- '- %s %s\n' "$size" "$name"
        elif cat "$path" >"$in" 2>/dev/null; then
            size=0
            [ ! -s "$in" ] || size=$(($(wc -c <"$in")))
            printf '+ %s %s\n' "$size" "$name"
            cat "$in"
        fi
    done >"$out"
    set -f
}

# fetch FOLDER NAME MOST: one of them.
fetch() {
    named "$2" || return 1
    { guarded "${1%/*}" sticky && safe "$1"; } || { untrusted "$1"; return; }
    file "$1/$2" && look "$1/$2" "$3"
}

# stand_by NAME LOCK GUARD RECORD: start revert.sh in a session of its own, which outlives this one.
stand_by() {
    named "$1" && named "$2" && named "$3" && named "$4" || return 1
    orders=$run/$1
    set -- sh "$orders/revert.sh" "$orders" "$run" "$shelf" "$2" "$3" "$4" "$boot" "$flock"
    # Where systemd runs the host, it may end what a session started; it does not end units.
    if ! { first_network && [ -d /run/systemd/system ] && has systemd-run &&
        systemd-run --quiet --collect -- "$@" </dev/null >/dev/null 2>&1; }; then
        if has setsid; then set -- setsid "$@"; fi
        "$@" </dev/null >/dev/null 2>&1 5>&- 6>&- 7>&- 8>&- 9>&- &
    fi
    tries=150
    while [ ! -f "$orders/ready" ] && [ "$tries" -gt 0 ]; do
        sleep 0.1 2>/dev/null || sleep 1
        tries=$((tries - 1))
    done
    [ -f "$orders/ready" ] || complain "the script that reverts the trial did not start"
}

# serve VERB WORD…: the answer's status; its output is in $out.
serve() {
    verb=$1
    shift
    case $verb in
        hello)
            {
                printf 'user %s\n' "$(id -u)"
                printf 'boot %s\n' "$boot"
                printf 'pid %s\n' "$$"
                printf 'network %s\n' "$network"
                clock
                printf 'cookie %s\n' "$mark"
                printf 'order %s\n' "$(byte_order)"
                describe "$@"
                set +f
                for path in "$run"/*."$network.lock" "$run"/*."$network.lock.d"; do
                    set -f
                    name=${path##*/}
                    if [ -e "$path" ] && held "${name%.d}"; then printf 'locked %s\n' "${name%.d}"; fi
                done
                set -f
            } >"$out"
            ;;
        clock) clock >"$out" ;;
        run) "$@" <"$in" >"$out" 2>"$err" ;;
        read) look "$1" "$2" ;;
        write) [ -f "$1" ] && dd if="$in" of="$1" bs=65536 conv=notrunc 2>/dev/null ;;
        exists) [ -e "$1" ] ;;
        which) find_tool "$1" && printf '%s\n' "$tool_path" >"$out" ;;
        prints) # PATTERN: the files that it fits, each with what tells it from others
            IFS=
            set +f
            for path in $1; do
                set -f
                unset IFS
                [ ! -e "$path" ] || printf '%s %s\n' "$path" "$(fingerprint "$path")"
            done >"$out"
            set -f
            unset IFS
            ;;
        holding) # WORD PATTERN…: the files that fit, and that have the word in them
            word=$1
            shift
            IFS=
            set +f
            for pattern in "$@"; do
                # shellcheck disable=SC2086
                grep -lsF -e "$word" $pattern </dev/null
            done >"$out"
            set -f
            unset IFS
            return 0
            ;;
        glob)
            IFS=
            set +f
            for path in $1; do
                set -f
                [ ! -e "$path" ] && [ ! -L "$path" ] || printf '%s\n' "$path"
            done >"$out"
            set -f
            unset IFS
            ;;
        fingerprint)
            [ -e "$1" ] || return 1
            fingerprint "$1" >"$out"
            ;;
        netlink) perl "$dir/netlink.pl" <"$in" >"$out" 2>"$err" ;;
        place)
            cp "$in" "$dir/$1"
            ;;
        stand-aside) # NAME: begin anew what a host does by itself
            named "$1" && rm -rf "$run/$1" && mkdir -m 700 "$run/$1" "$run/$1/after" && : >"$run/$1/gone"
            ;;
        hand) # NAME FILE: one of its files
            named "$1" && [ -d "$run/$1" ] || return 1
            case $2 in after/*) named "${2#after/}" ;; *) named "$2" ;; esac || return 1
            cp "$in" "$run/$1/.new" 2>"$err" && mv -f "$run/$1/.new" "$run/$1/$2" 2>"$err"
            ;;
        stand-by) stand_by "$1" "$2" "$3" "$4" ;;
        lock) lock "$1" "$2" ;;
        unlock) unlock "$1" "$2" ;;
        held) held "$1" ;;
        known) every "$run" ".$network.known" "$1" ;;
        recall) fetch "$run" "$1" "$2" ;;
        know)
            folder "$run" 755 || return
            put "$run" "$1"
            ;;
        forget) named "$1" && safe "$run" && rm -f "$run/$1" ;;
        saved) every "$shelf" "" "$1" ;;
        fetch) fetch "$shelf" "$1" "$2" ;;
        save)
            folder "$shelf" 700 || return
            put "$shelf" "$1"
            ;;
        drop)
            named "$1" || return 1
            [ -d "$shelf" ] || return 0
            safe "$shelf" || { untrusted "$shelf"; return; }
            rm -f "$shelf/$1" 2>"$err"
            ;;
        append)
            named "$1" || return 1
            folder "$shelf" 700 || return
            [ ! -L "$shelf/$1" ] || { complain "$1 is a symbolic link"; return; }
            cat "$in" >>"$shelf/$1" 2>"$err"
            ;;
        rename)
            named "$1" && named "$2" || return 1
            safe "$shelf" || { untrusted "$shelf"; return; }
            [ ! -d "$shelf/$2" ] || { complain "$2 is a directory"; return; }
            mv -f "$shelf/$1" "$shelf/$2" 2>"$err"
            ;;
        *) complain "unknown request" ;;
    esac
}

if [ "$(id -u)" != 0 ]; then
    printf 'lbctl: this user is not root, and sudo did not make it root\n' >&2
    exit 77
fi
for tool in cat cp date dd grep id ln ls mkdir mv rm sleep tr uname wc; do
    has "$tool" || { printf 'lbctl: this host lacks the program %s\n' "$tool" >&2; exit 69; }
done
err=
folder "$run" 755
case $? in 0) ;; 13) exit 78 ;; *) exit 73 ;; esac

# What sessions left that were killed.
set +f
for old in "$run"/session.* "$run"/*.lock.d.new.*; do
    set -f
    [ ! -e "$old" ] || [ -d "/proc/${old##*.}" ] || rm -rf "$old"
done
set -f
dir=$run/session.$$
rm -rf "$dir"
mkdir -m 700 "$dir" 2>/dev/null && { printf x >"$dir/x"; } 2>/dev/null && [ -s "$dir/x" ] || full
in=$dir/in out=$dir/out err=$dir/err locks=
# A sign of life among ssh's messages: probes of ssh do not serve where a user's master connection carries this.
while sleep 5 3>&- && kill -0 "$$"; do printf 'lbctl-alive\n' >&3; done 3>&2 </dev/null >/dev/null 2>&1 &
alive=$!
cleanup() {
    kill "$alive"
    for each in $locks; do release "$each"; done
    rm -rf "$dir"
} 2>/dev/null
trap cleanup EXIT
trap 'exit 0' HUP INT TERM PIPE

whole= durable= head= flock=
[ "$(dd if="$dir/x" bs=1 count=1 iflag=fullblock 2>/dev/null)" = x ] && whole=yes
dd if="$dir/x" of="$dir/y" conv=fsync 2>/dev/null && durable=yes
[ "$(head -c 1 "$dir/x" 2>/dev/null)" = x ] && head=yes
has flock && (flock -n 4) 4<"$dir/x" 2>/dev/null && flock=yes

printf 'lbctl-session %s\n' "${nonce:-${1:-}}"
while read -r number verb count bytes; do
    case $number$count$bytes in '' | *[!0-9]*) exit 65 ;; esac
    set --
    while [ "$count" -gt 0 ]; do
        IFS= read -r word || exit 0
        set -- "$@" "$word"
        count=$((count - 1))
    done
    : >"$out"
    : >"$err"
    take "$bytes" "$in" || { writable || full; exit 0; }
    serve "$verb" "$@"
    answer $?
done
