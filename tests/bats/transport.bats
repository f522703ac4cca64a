#!/usr/bin/env bats
# How requests reach the daemon: FUSE over io_uring and /dev/fuse, what is chosen and said, what becomes of slow requests,
# and of clients that are killed.

load helper

setup_test() {
    cd "$BATS_TEST_TMPDIR" || return
    unset SHALE_TRANSPORT # each test says what it wants
}

stat_of() { awk -v name="$1" '$1 == name {$1 = ""; print substr($0, 2)}' "$MNT/.shale/stats"; } # NAME
json_of() { python3 -c 'import json, sys; print(json.load(open(sys.argv[1]))[sys.argv[2]])' "$MNT/.shale/stats.json" "$1"; }
preload() { export LD_PRELOAD=$SHALE_BIN/../tests/libfault.so FAULT=$1; }
start_faulty() { # FAULT ARGUMENT...
    local fault=$1
    shift
    preload "$fault"
    start_store "$@"
    unset LD_PRELOAD FAULT
}

use_store() {
    mkdir "$MNT/dir"
    echo one >"$MNT/dir/f"
    sync "$MNT/dir/f"
    assert_equal "$(cat "$MNT/dir/f")" one
    mv "$MNT/dir/f" "$MNT/g"
    head -c 3000000 /dev/urandom >"$MNT/large"
    cp "$MNT/large" "$MNT/copy"
    cmp "$MNT/large" "$MNT/copy"
    assert_equal "$(ls "$MNT")" $'copy\ndir\ng\nlarge'
    rm "$MNT/large" "$MNT/copy"
}

@test "uring: is chosen when the kernel offers it, and says so" {
    uring_on
    start_store
    use_store
    [[ $(stat_of transport) == "uring, "*" queues of "*" requests" ]] || fail "$(stat_of transport)"
    assert_equal "$(json_of transport)" uring
    [ "$(json_of requests)" -gt 10 ]
    grep -q 'transport: FUSE over io_uring' "$LOG"
    stop_store
}

@test "uring: a queue's threads give way while a CPU is idle, and only then" {
    uring_on
    require_root # has the right to come back
    [ "$(nproc)" -gt 1 ] || skip "one CPU"
    local i before yielded load=()
    start_store
    mkdir "$MNT/d"
    for ((i = 0; i < 100; i++)); do
        for n in {1..50}; do : >"$MNT/d/$n"; done
        yielded=$(json_of requests_yielded)
        [ "$yielded" -eq 0 ] || break
    done
    [ "$yielded" -gt 0 ] || skip "no CPU was idle"
    for ((i = 0; i < 2 * $(nproc); i++)); do
        while :; do :; done &
        load+=($!)
    done
    for ((i = 0; i < 100; i++)); do
        sleep 0.3 # longer than it looks back
        before=$(json_of requests_yielded)
        for n in {1..50}; do : >"$MNT/d/$n"; done
        yielded=$(json_of requests_yielded)
        [ "$yielded" -ne "$before" ] || break
    done
    kill "${load[@]}"
    assert_equal "$yielded" "$before"
    stop_store
}

@test "classic: is live when asked for, and says why" {
    start_store -o transport=classic
    use_store
    [[ $(stat_of transport) == "classic, "*" threads; not uring: transport=classic was asked for" ]] ||
        fail "$(stat_of transport)"
    assert_equal "$(json_of transport)" classic
    stop_store
}

@test "without uring: the mount works, and says what would enable it" {
    if [ -e "$URING_PARAMETER" ] && [ "$(<"$URING_PARAMETER")" = Y ]; then
        # It is the others' as well: nobody mounts with it while the lock is held, and none may need it now.
        require_root
        mkdir -p "$URING_STATE"
        exec 8>"$URING_STATE/lock"
        flock 8
        if uring_users; then skip "other tests need it switched on"; fi
        echo N >"$URING_PARAMETER"
        WAS_ON=1
    fi
    start_store
    mkdir mnt2
    run -1 --separate-stderr shalefs "$STORE.2" "$BATS_TEST_TMPDIR/mnt2" -o transport=uring
    local refused=$stderr
    [ -z "${WAS_ON:-}" ] || echo Y >"$URING_PARAMETER"
    use_store
    [[ $(stat_of transport) == "classic, "*"not uring: "* ]] || fail "$(stat_of transport)"
    [[ $(json_of transport_why) == *"6.14"* || $(json_of transport_why) == *"echo Y > $URING_PARAMETER"* ]] ||
        fail "$(json_of transport_why)"
    grep -q 'not FUSE over io_uring: ' "$LOG"
    [[ $refused == *"transport=uring cannot be had: "* ]] || fail "$refused"
    stop_store
}

@test "a value of transport= that does not exist is refused" {
    assert_refused shalefs "$STORE" "$MNT" -o transport=pigeon
    assert_output --partial "auto, uring and classic"
    assert_refused shalefs "$STORE" "$MNT" -o transport
}

@test "whatever fails while the queues are made, the mount is there, without them" {
    uring_on
    local fault
    for fault in queue_init=1 queue_init=2 register_files=1 register_files=2 eventfd=2 eventfd=3 \
        register_queue=1 register_queue=2; do
        echo "$fault"
        start_faulty $fault
        [[ $(stat_of transport) == "classic, "*"not uring: "* ]] || fail "$(stat_of transport)"
        # And the reason is the first one, also if that mount was given up for another.
        [[ $fault != register_queue=* || $(stat_of transport) == *"the kernel refused a queue"* ]] ||
            fail "$(stat_of transport)"
        [ "$(grep -c " $MNT " /proc/self/mountinfo)" -eq 1 ]
        use_store
        rm -r "${MNT:?}"/*
        stop_store
    done
    preload register_queue=2
    assert_refused shalefs "$STORE.new" "$MNT" -o transport=uring
    assert_output --partial "the kernel refused a queue"
    ! is_mounted "$MNT"
}

@test "an ordinary user gets uring as well" {
    require_fuse
    require_root
    uring_on
    local dir as="setpriv --reuid 65534 --regid 65534 --clear-groups"
    dir=$(mktemp -d /tmp/shale-user.XXXXXX)
    chown 65534 "$dir"
    if ! $as sh -c "mkdir $dir/m && shalefs $dir/s $dir/m -o transport=uring 3>&-" 2>"$dir/err"; then
        cat "$dir/err"
        # A system may keep io_uring or fusermount3 from its users.
        grep -qE 'fusermount3|not allowed|/dev/fuse' "$dir/err" && rm -r "$dir" && skip "users may not mount here"
        return 1
    fi
    $as sh -c "echo x >$dir/m/f && grep -q '^transport  *uring' $dir/m/.shale/stats"
    $as shale umount "$dir/m"
    rm -r "$dir"
}

# Ended in every way while programs use it: nothing hangs, nothing is left.
ends_of_a_mount() { # TRANSPORT
    local i how users
    for how in umount sigterm lazy kill abort; do
        echo "$1 $how"
        start_store -o "transport=$1"
        mkdir -p "$MNT/d"
        users=()
        for i in 1 2 3 4; do
            # In a directory, so that it does not go on in the one below the mount.
            (while echo x >"$MNT/d/$i" && sync "$MNT/d/$i" && cat "$MNT/d/$i" && rm "$MNT/d/$i"; do :; done) \
                >/dev/null 2>&1 3>&- &
            users+=($!)
        done
        sleep 0.3
        case $how in
        umount | lazy) umount_lazily "$MNT" ;;
        sigterm) kill "$DAEMON" ;;
        kill) kill -9 "$DAEMON" ;;
        abort) abort_connection ;;
        esac
        wait_gone "$DAEMON" 300 || fail "the daemon is still there after $how"
        # Nor does it leave a dead mount, if it can help it.
        [ "$how" = kill ] || ! is_mounted "$MNT" || fail "still mounted after $how"
        ! is_mounted "$MNT" || umount_lazily "$MNT"
        wait "${users[@]}" || true
    done
}
@test "uring: unmount, lazy unmount, SIGTERM, SIGKILL and an aborted connection, in use" {
    require_root
    uring_on
    ends_of_a_mount uring
}
@test "classic: unmount, lazy unmount, SIGTERM, SIGKILL and an aborted connection, in use" {
    require_root
    ends_of_a_mount classic
}

# While COUNT programs wait in fsync (each takes most of a second), others get their answers.
fsync_storm() { # TRANSPORT COUNT
    start_faulty sync_ms=700 -o "transport=$1,commit=300"
    python3 - "$MNT" "$2" <<'PYTHON'
import os, sys, threading, time

mount, count = sys.argv[1], int(sys.argv[2])
done = []

def one(n):
    fd = os.open(f"{mount}/s{n}", os.O_CREAT | os.O_WRONLY)
    os.write(fd, b"x")
    os.fsync(fd)
    done.append(n)

threads = [threading.Thread(target=one, args=(n,)) for n in range(count)]
for t in threads:
    t.start()
answered = 0
while not done:  # until the first fsync returns
    try:
        os.stat(f"{mount}/absent{answered}")
    except FileNotFoundError:
        answered += 1
for t in threads:
    t.join()
print(answered, "answers while", count, "waited")
# Without one thread or entry for each that waits, it would be a handful.
sys.exit(answered < 200)
PYTHON
    stop_store
}
@test "uring: 300 programs that wait in fsync hold up nobody" {
    uring_on
    fsync_storm uring 300
}
@test "classic: 300 programs that wait in fsync hold up nobody" { fsync_storm classic 300; }

# While COUNT programs wait for a slow disk, what is in memory is answered.
cold_reads() { # TRANSPORT COUNT
    start_store -o "transport=$1,write_buffer=64K"
    mkdir "$MNT/d"
    local i
    # Enough that the first ones are in tables.
    for ((i = 0; i < 300; i++)); do head -c 3000 /dev/urandom >"$MNT/d/$i"; done
    stop_store
    start_faulty read_ms=50 -o "transport=$1"
    mkdir "$MNT/warm"
    python3 - "$MNT" "$2" <<'PYTHON'
import os, sys, threading

mount, count = sys.argv[1], int(sys.argv[2])
left = [count]
lock = threading.Lock()

def one(n):
    with open(f"{mount}/d/{n}", "rb") as f:
        assert len(f.read()) == 3000
    with lock:
        left[0] -= 1

threads = [threading.Thread(target=one, args=(n,)) for n in range(count)]
for t in threads:
    t.start()
answered = 0
while left[0] > 0:
    try:
        os.stat(f"{mount}/warm/absent{answered}")
    except FileNotFoundError:
        answered += 1
for t in threads:
    t.join()
print(answered, "answers while", count, "read")
sys.exit(answered < 100)
PYTHON
    [ "$(json_of requests_deferred)" -gt 0 ]
    stop_store
}
@test "uring: programs that wait for a slow disk hold up nobody" {
    uring_on
    cold_reads uring 30
}
@test "classic: programs that wait for a slow disk hold up nobody" { cold_reads classic 30; }

# 64 clients, killed at random and replaced, for SECONDS (SHALE_SECONDS, else ten minutes with SHALE_LONG, else 4): then nothing waits, and the daemon has not grown.
killed_clients() { # TRANSPORT SECONDS
    require_root
    start_store -o "transport=$1,memory=32M"
    local device waiting i
    python3 - "$MNT" "$2" "$DAEMON" "${SHALE_SEED:-$RANDOM}" <<'PYTHON'
import os, random, signal, sys, time

mount, seconds, daemon, seed = sys.argv[1], float(sys.argv[2]), sys.argv[3], int(sys.argv[4])
print("seed: SHALE_SEED=%d" % seed)
random.seed(seed)
# Here already: Python's own handler may swallow one that comes while a child is being forked, and we would wait for ever.
signal.signal(signal.SIGINT, signal.SIG_DFL)

def client(n):
    r = random.Random(n)
    d = f"{mount}/{n % 8}"
    os.makedirs(d, exist_ok=True)
    while True:
        p = f"{d}/{r.randrange(50)}"
        try:
            k = r.randrange(6)
            if k < 2:
                fd = os.open(p, os.O_CREAT | os.O_RDWR)
                os.pwrite(fd, bytes(r.randrange(1, 20000)), r.randrange(100000))
                if k == 1:
                    os.fsync(fd)
                os.close(fd)
            elif k == 2:
                os.listdir(d)
            elif k == 3:
                os.unlink(p)
            elif k == 4:
                os.rename(p, f"{d}/{r.randrange(50)}")
            else:
                with open(p, "rb") as f:
                    f.read()
        except FileNotFoundError:
            pass

def start(n):
    pid = os.fork()
    if pid == 0:
        try:
            client(n)
        finally:
            os._exit(1)
    return pid

def resident():
    for line in open(f"/proc/{daemon}/status"):
        if line.startswith("VmRSS"):
            return int(line.split()[1])

pids = [start(n) for n in range(64)]
n, early, end = 64, None, time.time() + seconds
while time.time() < end:
    time.sleep(0.02)
    i = random.randrange(64)
    os.kill(pids[i], random.choice([signal.SIGKILL, signal.SIGTERM, signal.SIGINT]))
    os.waitpid(pids[i], 0)
    pids[i] = start(n)
    n += 1
    if early is None and time.time() > end - seconds / 2:
        early = resident()
for p in pids:
    os.kill(p, signal.SIGKILL)
    os.waitpid(p, 0)
late = resident()
print(n, "clients;", early, "KiB resident half-way,", late, "KiB at the end")
sys.exit(late > early + 32 * 1024)
PYTHON
    mkdir -p ctl
    mount -t fusectl fusectl ctl
    device=$(mountpoint -d "$MNT")
    for ((i = 0; i < 100; i++)); do
        waiting=$(cat "ctl/${device#*:}/waiting")
        [ "$waiting" != 0 ] || break
        sleep 0.1
    done
    umount ctl
    assert_equal "$waiting" 0
    rm -r "${MNT:?}"/*
    use_store
    stop_store
    shale check "$STORE"
}
@test "uring: 64 clients that are killed at random leave nothing behind" {
    uring_on
    killed_clients uring "${SHALE_SECONDS:-$([ -n "${SHALE_LONG:-}" ] && echo 600 || echo 4)}"
}
@test "classic: 64 clients that are killed at random leave nothing behind" {
    killed_clients classic "${SHALE_SECONDS:-$([ -n "${SHALE_LONG:-}" ] && echo 600 || echo 4)}"
}

# Requests that need not exist: what ordinary programs cost on a tree that nothing is cached of.

requests_of() { # COMMAND...: how many it took, as R
    local before
    before=$(json_of requests)
    "$@" >/dev/null
    R=$(($(json_of requests) - before))
}

@test "a cold walk costs no request for a name, and ls -l at most one" {
    start_store
    mkdir "$MNT/tree"
    for i in {1..200}; do : >"$MNT/tree/a-file-with-a-longer-name-$i"; done
    stop_store
    start_store
    requests_of find "$MNT/tree" -size +1k
    [ "$R" -lt 60 ] || fail "find: $R requests"
    stop_store
    start_store
    requests_of ls -l "$MNT/tree"
    [ -e /sys/fs/selinux ] || [ "$R" -lt 260 ] || fail "ls -l: $R requests"
    stop_store
}

@test "a label of SELinux is kept on machines without it" {
    require_root
    start_store
    : >"$MNT/f"
    : >"$MNT/g"
    setfattr -n security.selinux -v system_u:object_r:etc_t:s0 "$MNT/f"
    assert_equal "$(getfattr --only-values -n security.selinux "$MNT/f")" system_u:object_r:etc_t:s0
    run getfattr -n security.selinux "$MNT/g"
    [ "$status" -ne 0 ]
    cp -a "$MNT/f" "$MNT/h"
    stop_store
    start_store
    assert_equal "$(getfattr --only-values -n security.selinux "$MNT/f")" system_u:object_r:etc_t:s0
    stop_store
}
