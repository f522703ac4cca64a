#!/usr/bin/env bash
# rehearse.bash - what the rehearsals share: arguments, a scratch directory, daemons, writers, counts, cleaning up.
#
# A rehearsal sources this, calls `rehearse_begin "$@"`, and `rehearse_end` at last. Its arguments:
#   --quick        the form for ctest (default)
#   --seconds=N    for about N seconds
#   --seed=N       replays the random choices; also SHALE_SEED. What the machine does meanwhile is not replayed.
# SHALE_BIN: the programs' directory (default: the release build); the helpers lie in ../tests of it.
# SHALE_KEEP=1: the scratch directory stays after a failure. The daemons' messages do in any case; where is said.
# Exit status 0; 1 after a failure, with `FAILED:` and a line that replays it; 77 if this machine cannot do it.
#
# shellcheck disable=SC2034 # what is set here is used by the rehearsals
#
# Everything that is started lies below $SCRATCH or stands in one of the lists PIDS, LOOPS, CGROUPS; clean_up ends it by
# these, on every exit.

TOP=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
SHALE_BIN=${SHALE_BIN:-$TOP/build/release/bin}
HELPERS=$SHALE_BIN/../tests
PATH=$SHALE_BIN:$PATH:/usr/sbin:/sbin
export LC_ALL=C.UTF-8 TZ=UTC
umask 022
# shellcheck source=tests/bats/mounts.bash
source "$TOP/tests/bats/mounts.bash"

NAME=$(basename "$0")
SECONDS_WANTED=0 # 0: the quick form
SEED=${SHALE_SEED:-}
SCRATCH=
PIDS=()
LOOPS=()
CGROUPS=()
FAILED=0
declare -A COUNT=()

usage() {
    awk 'NR > 1 && !/^#/ {exit} NR > 1 {sub(/^# ?/, ""); print}' "$0"
    exit 2
}

skip() {
    echo "skipped: $1"
    exit 77
}

rehearse_begin() {
    local argument
    for argument in "$@"; do
        case $argument in
        --quick) SECONDS_WANTED=0 ;;
        --seconds=*) SECONDS_WANTED=${argument#*=} ;;
        --seed=*) SEED=${argument#*=} ;;
        *) usage ;;
        esac
    done
    [[ $SECONDS_WANTED =~ ^[0-9]+$ ]] || usage
    [ -x "$HELPERS/rehearse_writer" ] || {
        echo "there is no $HELPERS/rehearse_writer: build first" >&2
        exit 1
    }
    (exec 9<>/dev/fuse) 2>/dev/null || skip "/dev/fuse cannot be used here"
    SEED=${SEED:-$(($(date +%s%N) / 1000 % 1000000000))}
    RANDOM=$((SEED % 32768)) # bash keeps 15 bits
    SCRATCH=$(mktemp -d "${TMPDIR:-/tmp}/rehearse.XXXXXX")
    STORE=$SCRATCH/store
    MNT=$SCRATCH/mnt
    LOG=$SCRATCH/daemon.log
    mkdir "$MNT"
    trap clean_up EXIT
    trap 'exit 130' INT
    trap 'exit 143' TERM HUP
    SECONDS=0
    echo "$NAME: replay with tests/rehearse/$NAME --seed=$SEED$(form)"
}

form() { [ "$SECONDS_WANTED" -eq 0 ] || echo " --seconds=$SECONDS_WANTED"; }

# Whether there is time for another round; ROUNDS is what the quick form does.
another_round() { # ROUNDS-DONE ROUNDS
    if [ "$SECONDS_WANTED" -eq 0 ]; then [ "$1" -lt "$2" ]; else [ "$SECONDS" -lt "$SECONDS_WANTED" ]; fi
}

# Sets R to a number below N. Not by a subshell: that would draw from a copy.
random_below() { R=$(((RANDOM << 15 | RANDOM) % $1)); }

count() { COUNT[$1]=$((${COUNT[$1]:-0} + ${2:-1})); }

# Every failure is told at once; the rehearsal ends, for what comes after would only be its consequences.
fail() {
    FAILED=1
    echo "FAILED: ${SCENE:+$SCENE: }$*"
    tell_logs
    echo "  replay: tests/rehearse/$NAME --seed=$SEED$(form)"
    [ -z "${SHALE_KEEP:-}" ] || echo "  kept: $SCRATCH"
    exit 1
}

# What the daemons said: first those whose messages go to $LOG. The files stay, where is told.
tell_logs() {
    local log kept=${TMPDIR:-/tmp}/rehearse.$NAME.$SEED
    for log in "$LOG" "$SCRATCH"/*.log; do
        [ -s "$log" ] || continue
        mkdir -p "$kept"
        [ -e "$kept/${log##*/}" ] && continue
        cp "$log" "$kept/"
        echo "the last messages in $kept/${log##*/}:"
        tail -n 30 "$log"
    done
}

rehearse_end() {
    local key line=
    for key in $(printf '%s\n' "${!COUNT[@]}" | sort); do line+="$key=${COUNT[$key]} "; done
    echo "$NAME: ${line}failures=0 ($SECONDS s)"
    exit 0
}

# shellcheck disable=SC2317 # called by the trap
clean_up() {
    local status=$? pid point loop group
    trap '' INT TERM HUP
    exec 2>/dev/null # what the shell says of jobs that are killed
    [ -n "$SCRATCH" ] || return "$status"
    for pid in "${PIDS[@]}"; do kill -CONT "$pid" 2>/dev/null && kill -9 "$pid" 2>/dev/null; done
    # A mount upon a dying disk ends only with its daemon: first those, then the mounts from the top.
    for pid in $(daemons_of "$SCRATCH"); do kill -9 "$pid"; done
    for _ in 1 2 3; do
        while read -r point; do umount -l "$point" 2>/dev/null; done < <(mounts_below "$SCRATCH")
    done
    for loop in "${LOOPS[@]}"; do
        [ -z "$loop" ] || losetup -d "$loop" 2>/dev/null
    done
    for pid in $(disks_of "$SCRATCH"); do
        wait_gone "$pid" 50 || kill -9 "$pid"
    done
    for group in "${CGROUPS[@]}"; do rmdir "$group" 2>/dev/null; done
    if mounts_below "$SCRATCH" | grep .; then
        echo "these mounts could not be ended"
        status=1
    elif [ -z "${SHALE_KEEP:-}" ] || [ "$FAILED" -eq 0 ]; then
        rm -rf --one-file-system "$SCRATCH"
    fi
    exit "$status"
}

disks_of() { processes_of "$1" rehearse_disk; }

# Forgets a process that has ended.
drop_pid() {
    local i
    for i in "${!PIDS[@]}"; do [ "${PIDS[i]}" != "$1" ] || unset "PIDS[i]"; done
}

# ---- the daemon ----

# Starts it without waiting for anything. Its process is $DAEMON.
launch_daemon() { # STORE MOUNTPOINT [OPTION]...
    shalefs "$1" "$2" -f "${@:3}" >>"$LOG" 2>&1 &
    DAEMON=$!
    PIDS+=("$DAEMON")
}

# Until the mount answers; false if the daemon ended before.
await_mount() { # MOUNTPOINT [PID]
    local i pid=${2:-$DAEMON}
    for ((i = 0; i < 6000; i++)); do
        if is_mounted "$1" && timeout 60 stat "$1" >/dev/null 2>&1; then return 0; fi
        kill -0 "$pid" 2>/dev/null || return 1
        sleep 0.01
    done
    return 1
}

start_daemon() { # STORE MOUNTPOINT [OPTION]...
    launch_daemon "$@"
    await_mount "$2" || fail "the daemon did not mount"
}

# In good order; what was not said to be an error is one.
stop_daemon() { # MOUNTPOINT
    shale umount "$1" || fail "shale umount of $1"
    wait "$DAEMON" || fail "the daemon ended with status $?"
    drop_pid "$DAEMON"
}

kill_daemon() {
    kill -9 "$DAEMON" 2>/dev/null
    wait "$DAEMON" 2>/dev/null
    drop_pid "$DAEMON"
}

# ---- writers: each has MOUNT/wK and the journal JOURNALS/jK ----

new_histories() { # MOUNT JOURNALS WRITERS
    local k
    mkdir -p "$2"
    for ((k = 0; k < $3; k++)); do
        rm -rf "$1/w$k" "$2/j$k"
        mkdir "$1/w$k" || fail "mkdir $1/w$k"
    done
}

start_writers() { # MOUNT JOURNALS WRITERS [OPTION]...
    local k
    WRITERS=()
    for ((k = 0; k < $3; k++)); do
        "$HELPERS/rehearse_writer" "$1/w$k" "$2/j$k" --seed=$((SEED * 1000 + HISTORY * 16 + k)) "${@:4}" \
            >>"$SCRATCH/writers.log" 2>&1 &
        WRITERS+=($!)
        PIDS+=($!)
    done
}

end_writers() { kill "${WRITERS[@]}" 2>/dev/null || true; }

# Waits for them; a wrong answer to one of them is a failure.
join_writers() {
    local pid status=0
    for pid in "${WRITERS[@]}"; do
        wait "$pid" || status=$?
        drop_pid "$pid"
    done
    WRITERS=()
    [ "$status" -eq 0 ] || fail "a writer ended with status $status: $(tail -n 3 "$SCRATCH/writers.log")"
}

# Sets SAID to what rehearse_verify says, FIELD by `said_field`.
verify_histories() { # MOUNT JOURNALS WRITERS [OPTION]...
    local k pairs=()
    for ((k = 0; k < $3; k++)); do pairs+=("$1/w$k" "$2/j$k"); done
    SAID=$("$HELPERS/rehearse_verify" "${@:4}" "${pairs[@]}")
}
said_field() { # NAME
    sed -n "s/.*\\b$1=\\([0-9]*\\).*/\\1/p" <<<"$SAID"
}

check_store() { # STORE WHEN
    local said
    count checks
    said=$(shale check "$1" 2>&1) || fail "shale check $2: $said"
}
