# helper.bash - a store of its own for each test, mounted by the programs just built.
#
#   start_store [ARGUMENT OF shalefs]...   mounts $STORE at $MNT; the daemon is $DAEMON, its messages in $LOG
#   stop_store                             `shale umount`; fails unless the daemon ends well
#   restart_store                          both, with the same arguments
#   kill_store [PID]...                    kill -9, wait for these users of the mount, and away with it
#
# SHALE_BIN is the directory of the programs (ctest sets it; default: the release build). SHALE_TRANSPORT, if set, is
# the transport of every mount that start_store makes.
# Whatever a test does, teardown unmounts what is mounted below its directory and ends its daemons.

bats_require_minimum_version 1.5.0
export BATS_LIB_PATH=${BATS_LIB_PATH:-/usr/lib/bats:/usr/share/bats}
bats_load_library bats-support
bats_load_library bats-assert
bats_load_library bats-file

TOP=$(cd "$BATS_TEST_DIRNAME/../.." && pwd)
SHALE_BIN=${SHALE_BIN:-$TOP/build/release/bin}
[ -x "$SHALE_BIN/shalefs" ] || { echo "there is no $SHALE_BIN/shalefs: build first" >&2; exit 1; }
PATH=$SHALE_BIN:$PATH
export LC_ALL=C.UTF-8 TZ=UTC
umask 022
# shellcheck source=tests/bats/mounts.bash
source "$TOP/tests/bats/mounts.bash"

setup() {
    STORE=$BATS_TEST_TMPDIR/store
    MNT=$BATS_TEST_TMPDIR/mnt
    LOG=$BATS_TEST_TMPDIR/daemon.log
    DAEMON=
    mkdir -p "$MNT"
    [ "${SHALE_TRANSPORT:-}" != uring ] || uring_on
    setup_test
}
setup_test() { :; } # for the files to override

teardown() {
    local status=0
    teardown_mounts || status=1
    uring_off
    if [ -z "${BATS_TEST_COMPLETED:-}" ] && [ -s "${LOG:-/dev/null}" ]; then
        echo "the daemon's last messages:"
        tail -n 20 "$LOG"
    fi
    return $status
}

# Without this, removing the test's directory would remove what is in the store, or hang.
teardown_mounts() {
    local point pid
    while read -r point; do
        umount_lazily "$point"
    done < <(mounts_below "$BATS_TEST_TMPDIR")
    for pid in $(daemons_of "$BATS_TEST_TMPDIR"); do
        wait_gone "$pid" 100 || kill -9 "$pid"
        wait_gone "$pid" 100
    done
    ! mounts_below "$BATS_TEST_TMPDIR" | grep .
}

require_fuse() {
    if ! (exec 9<>/dev/fuse) 2>/dev/null; then
        skip "/dev/fuse cannot be used here"
    fi
}

# What a test is run as matters for devices, ownership and umount(8).
require_root() {
    [ "$(id -u)" -eq 0 ] || skip "needs root"
}

# FUSE over io_uring has to be switched on in the kernel, for all. Tests that need it say so; the first one notes how it
# was, and the last one that ends leaves it so. Those that were killed are found out by whoever comes next.
URING_PARAMETER=/sys/module/fuse/parameters/enable_uring
URING_STATE=/run/lock/shale-test-uring
uring_on() {
    [ -e "$URING_PARAMETER" ] || skip "this kernel has no FUSE over io_uring"
    [ "$(id -u)" -eq 0 ] || skip "needs root, to switch FUSE over io_uring on"
    mkdir -p "$URING_STATE"
    {
        flock 9
        [ -e "$URING_STATE/found" ] || cp "$URING_PARAMETER" "$URING_STATE/found"
        echo Y >"$URING_PARAMETER"
        touch "$URING_STATE/user.$$"
    } 9>"$URING_STATE/lock"
}
uring_off() {
    [ -e "$URING_STATE/user.$$" ] || return 0
    {
        flock 9
        rm -f "$URING_STATE/user.$$"
        if ! uring_users; then
            cat "$URING_STATE/found" >"$URING_PARAMETER"
            rm -f "$URING_STATE/found"
        fi
    } 9>"$URING_STATE/lock"
}
uring_users() { # whether there are any; with the lock held
    local user
    for user in "$URING_STATE"/user.*; do
        [ -e "$user" ] || continue
        if [ -d "/proc/${user##*.}" ]; then return 0; fi
        rm -f "$user"
    done
    return 1
}

# In the foreground mode, so that the daemon is a child whose exit status and messages we see.
start_store() {
    require_fuse
    START_ARGUMENTS=("$@")
    shalefs "$STORE" "$MNT" -f ${SHALE_TRANSPORT:+-o "transport=$SHALE_TRANSPORT"} "$@" >>"$LOG" 2>&1 3>&- &
    DAEMON=$!
    local i
    for ((i = 0; i < 600; i++)); do
        if is_mounted "$MNT" && stat "$MNT" >/dev/null 2>&1; then return 0; fi
        kill -0 "$DAEMON" 2>/dev/null || break
        sleep 0.05
    done
    echo "the daemon did not mount:"
    cat "$LOG"
    return 1
}

# as USER COMMAND...: as an ordinary user of that number, with no group but its own; needs root.
as() {
    local user=$1
    shift
    setpriv --reuid "$user" --regid "$user" --clear-groups -- "$@"
}

# As start_store, and other users reach the mount.
start_open_store() {
    require_root
    local dir=$BATS_TEST_TMPDIR
    while [ "$dir" != / ]; do
        [ -n "$(find "$dir" -maxdepth 0 -perm -o+x)" ] || chmod o+x "$dir"
        dir=$(dirname "$dir")
    done
    start_store -o allow_other "$@"
    chmod 755 "$MNT"
}

stop_store() {
    shale umount "$MNT" || return 1
    wait "$DAEMON" || {
        echo "the daemon ended with status $?"
        cat "$LOG"
        return 1
    }
}

restart_store() {
    stop_store && start_store "${START_ARGUMENTS[@]}"
}

kill_store() {
    kill -9 "$DAEMON"
    wait "$DAEMON" 2>/dev/null || true
    # A user who outlived the mount would go on in the bare directory below it.
    local user
    for user in "$@"; do wait "$user" 2>/dev/null || true; done
    umount_lazily "$MNT"
}

# The connection is lost, as if the kernel had given it up; needs root.
abort_connection() {
    local ctl=$BATS_TEST_TMPDIR/ctl device
    device=$(mount_line "$MNT" | cut -d ' ' -f 3)
    mkdir -p "$ctl"
    mount -t fusectl fusectl "$ctl"
    echo 1 >"$ctl/${device#*:}/abort"
    umount "$ctl"
}

# A pseudo-random number below N; SHALE_SEED replays a run. RANDOM must not be used otherwise.
seed_random() {
    RANDOM_SEED=${SHALE_SEED:-$((($(date +%s%N) / 1000) % 32768))}
    RANDOM=$RANDOM_SEED
    echo "# seed: replay with SHALE_SEED=$RANDOM_SEED bats -f '$BATS_TEST_DESCRIPTION' $BATS_TEST_FILENAME" >&3
}

# Exactly the same tree: contents, types, modes, owners, times in ns, links, ACLs, xattrs, sparse or not.
assert_same_tree() { # SOURCE COPY
    run rsync -aHAXn --checksum --delete --itemize-changes --exclude=/.shale "$1/" "$2/"
    assert_success
    assert_output ''
}

# One line on stderr, nothing on stdout, non-zero status.
# shellcheck disable=SC2154 # bats sets stderr and stderr_lines
assert_refused() { # COMMAND...
    run --separate-stderr "$@"
    [[ $status -eq 1 || $status -eq 2 ]] || fail "exit status $status: $stderr"
    # What a busy machine makes it say besides.
    mapfile -t stderr_lines < <(grep -v 'replaying the log' <<<"$stderr")
    [ "${#stderr_lines[@]}" -eq 1 ] || fail "not one line but: $stderr"
    assert_output ''
    # shellcheck disable=SC2034 # for assert_output
    output=${stderr_lines[0]}
}

# The value behind a name in the text of `shale stats`, in bytes of "1.5 MiB" where it is a size.
stats_levels() { # STORE-OR-MOUNT: levels that hold files, one a line
    shale stats "$1" | awk '/^  level/ {t = 1; next} !/^ / {t = 0} t && NF >= 3 && $2 > 0 {print $1}' | sort -u
}
