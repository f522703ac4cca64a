#!/usr/bin/env bats
# The daemon itself: its options, what it refuses and how it says so, every way to start and end it.

load helper

# As users start it: in the background.
start_background() {
    require_fuse
    run shalefs "$STORE" "$MNT" 3>&-
    assert_success
    # Silent, unless a busy machine makes it so slow that it shows its progress.
    assert_equal "$(grep -v 'replaying the log' <<<"$output")" ''
    DAEMON=$(daemons_of "$BATS_TEST_TMPDIR")
    [ -n "$DAEMON" ] || fail "no daemon runs"
}

@test "starts in the background and is ready when it returns" {
    start_background
    is_mounted "$MNT"
    echo x >"$MNT/f"
    assert_equal "$(wc -w <<<"$DAEMON")" 1
    shale umount "$MNT"
    wait_gone "$DAEMON" 50
    start_background
    assert_equal "$(cat "$MNT/f")" x
}

@test "the mount's type and source say what it is" {
    start_store
    local line
    line=$(mount_line "$MNT")
    [[ $line == *" - fuse.shalefs $STORE "* ]] || fail "$line"
}

@test "relative paths, and blanks in paths" {
    require_fuse
    mkdir "$BATS_TEST_TMPDIR/with blank"
    cd "$BATS_TEST_TMPDIR/with blank"
    mkdir 'mount point'
    run shalefs 'my store' 'mount point' 3>&-
    assert_success
    echo x >'mount point/f'
    shale umount 'mount point'
    assert_equal "$(shale get 'my store' /f)" x
}

@test "help and version" {
    run shalefs --help
    assert_success
    assert_output --partial "commit="
    run shalefs --version
    assert_success
    assert_output --regexp '^shalefs [0-9]+\.[0-9]+\.[0-9]+'
}

@test "wrong command lines are refused in one line, before anything happens" {
    assert_refused shalefs
    assert_refused shalefs "$STORE"
    assert_refused shalefs "$STORE" "$MNT" third
    assert_refused shalefs --nonsense "$STORE" "$MNT"
    assert_refused shalefs "$STORE" "$MNT" -o nonsense
    assert_output --partial nonsense
    assert_refused shalefs "$STORE" "$MNT" -o memory=1K
    assert_refused shalefs "$STORE" "$MNT" -o memory=lots
    assert_refused shalefs "$STORE" "$MNT" -o commit=never
    assert_refused shalefs "$STORE" "$MNT" -o commit=-1
    assert_refused shalefs "$STORE" "$MNT" -o shards=0
    assert_refused shalefs "$STORE" "$MNT" -o shards=65
    assert_not_exist "$STORE"
}

@test "mount points that cannot be used are refused in one line" {
    require_fuse
    assert_refused shalefs "$STORE" "$BATS_TEST_TMPDIR/absent"
    assert_output --partial absent
    touch "$BATS_TEST_TMPDIR/file"
    assert_refused shalefs "$STORE" "$BATS_TEST_TMPDIR/file"
    refute is_mounted "$MNT"
}

@test "stores that are none are refused in one line and left alone" {
    require_fuse
    touch "$BATS_TEST_TMPDIR/file"
    assert_refused shalefs "$BATS_TEST_TMPDIR/file" "$MNT"
    mkdir "$BATS_TEST_TMPDIR/mine"
    echo precious >"$BATS_TEST_TMPDIR/mine/LETTER"
    assert_refused shalefs "$BATS_TEST_TMPDIR/mine" "$MNT"
    assert_equal "$(ls -A "$BATS_TEST_TMPDIR/mine")" LETTER
    assert_refused shalefs "$BATS_TEST_TMPDIR/no/such/parent" "$MNT"
    refute is_mounted "$MNT"
}

@test "a second daemon on the same store is refused, the first goes on" {
    start_store
    mkdir "$BATS_TEST_TMPDIR/mnt2"
    echo x >"$MNT/f"
    assert_refused shalefs "$STORE" "$BATS_TEST_TMPDIR/mnt2"
    assert_equal "$(cat "$MNT/f")" x
    echo y >"$MNT/f"
    run shale get "$STORE" /f
    assert_failure 1
    assert_output --partial "mounted at $MNT"
}

@test "SIGTERM unmounts and ends well" {
    start_store
    echo x >"$MNT/f"
    kill "$DAEMON"
    wait "$DAEMON"
    refute is_mounted "$MNT"
    start_store
    assert_equal "$(cat "$MNT/f")" x
}

@test "SIGINT in the foreground unmounts and ends well" {
    require_fuse
    # Background jobs of a shell ignore SIGINT; job control gives the daemon a normal one.
    set -m
    shalefs "$STORE" "$MNT" -f >>"$LOG" 2>&1 3>&- &
    DAEMON=$!
    set +m
    for _ in {1..100}; do is_mounted "$MNT" && break; sleep 0.05; done
    echo x >"$MNT/f"
    kill -INT "$DAEMON"
    wait "$DAEMON"
    refute is_mounted "$MNT"
}

@test "fusermount3 -u, umount and shale umount all lose nothing" {
    start_store
    echo 1 >"$MNT/fusermount3"
    fusermount3 -u "$MNT"
    wait "$DAEMON"
    if [ "$(id -u)" -eq 0 ]; then
        start_store
        echo 2 >"$MNT/umount"
        umount "$MNT"
        wait "$DAEMON"
    fi
    start_store
    echo 3 >"$MNT/shale"
    stop_store
    assert_equal "$(shale get "$STORE" /fusermount3)" 1
    [ "$(id -u)" -ne 0 ] || assert_equal "$(shale get "$STORE" /umount)" 2
    assert_equal "$(shale get "$STORE" /shale)" 3
}

@test "shale umount: busy, then done, then nothing there" {
    start_store
    exec 8>"$MNT/open"
    run shale umount "$MNT"
    assert_failure 1
    assert_output --partial busy
    assert_equal "${#lines[@]}" 1
    is_mounted "$MNT"
    exec 8>&-
    stop_store
    run shale umount "$MNT"
    assert_failure 1
    assert_output "shale: umount: $MNT: no ShaleFS is mounted there"
}

@test "shale umount returns when the store is closed: it can be mounted at once" {
    local i
    start_store -o write_buffer=64K
    for i in 1 2 3 4 5; do
        head -c 2000000 /dev/urandom >"$MNT/f$i"
        shale umount "$MNT"
        start_store -o write_buffer=64K
    done
    assert_equal "$(stat -c %s "$MNT"/f* | sort -u)" 2000000
}

@test "shale umount of a dead daemon's mount cleans up and says so" {
    start_store
    echo x >"$MNT/f"
    kill -9 "$DAEMON"
    wait "$DAEMON" || true
    run shale umount "$MNT"
    assert_failure 1
    assert_output --partial "daemon has died"
    refute is_mounted "$MNT"
    start_store
    assert_equal "$(cat "$MNT/f")" x
}

@test "shale sync: only on a ShaleFS" {
    start_store
    echo x >"$MNT/f"
    shale sync "$MNT"
    shale sync "$MNT/f"
    run shale sync "$BATS_TEST_TMPDIR"
    assert_failure 1
    assert_output --partial "not on a mounted ShaleFS"
}

@test "-o ro reads everything and changes nothing" {
    start_store
    echo x >"$MNT/f"
    stop_store
    local before
    before=$(cd "$STORE" && find . -type f ! -name LOCK -exec md5sum {} + | sort)
    start_store -o ro
    assert_equal "$(cat "$MNT/f")" x
    run touch "$MNT/g"
    assert_failure
    assert_output --partial "Read-only file system"
    run rm -f "$MNT/f"
    assert_failure
    stop_store
    assert_equal "$(cd "$STORE" && find . -type f ! -name LOCK -exec md5sum {} + | sort)" "$before"
}

@test "-o ro of a store that does not exist is refused" {
    require_fuse
    assert_refused shalefs "$STORE" "$MNT" -o ro
    assert_not_exist "$STORE"
}

@test "-o noatime, nocontrol, memory, commit, shards" {
    start_store -o noatime,nocontrol,memory=32M,commit=0.1 -o shards=3
    assert_not_exist "$MNT/.shale"
    mkdir "$MNT/.shale" # an ordinary name then
    rmdir "$MNT/.shale"
    touch -a -d 2001-01-01 "$MNT/f"
    cat "$MNT/f"
    assert_equal "$(stat -c %X "$MNT/f")" 978307200
    stop_store
    run shale stats "$STORE"
    assert_output --regexp 'shards +3'
}

@test "messages in the foreground go to standard error, and a clean life has none" {
    start_store
    cp -r "$TOP/tests" "$MNT/"
    stop_store
    run grep -iE 'error|warn|corrupt|assert|sanitizer' "$LOG"
    assert_output ''
}

@test "a store in its mount point, or the other way round, is refused" {
    require_fuse
    assert_refused shalefs "$MNT/store" "$MNT"
    assert_refused shalefs "$MNT" "$MNT"
    mkdir "$BATS_TEST_TMPDIR/outer" "$BATS_TEST_TMPDIR/outer/inner"
    assert_refused shalefs "$BATS_TEST_TMPDIR/outer" "$BATS_TEST_TMPDIR/outer/inner"
    assert_equal "$(find "$MNT" "$BATS_TEST_TMPDIR/outer" | wc -l)" 3
}

@test "a mount point in use, or with a dead mount, is refused" {
    start_store
    assert_refused shalefs "$BATS_TEST_TMPDIR/other" "$MNT"
    assert_output --partial "mounted already, from the store $STORE"
    kill -9 "$DAEMON"
    wait "$DAEMON" || true
    assert_refused shalefs "$BATS_TEST_TMPDIR/other" "$MNT"
    assert_output --partial "has died"
    assert_not_exist "$BATS_TEST_TMPDIR/other"
}

@test "another number of shards than the store has is refused" {
    start_store -o shards=3
    stop_store
    assert_refused shalefs "$STORE" "$MNT" -o shards=4
    assert_output --partial "has 3 shards"
    start_store -o shards=3
}

@test "mounting right after umount waits for the store to be closed" {
    local i
    start_background
    for i in 1 2 3 4 5; do
        head -c 3000000 /dev/urandom >"$MNT/f$i"
        fusermount3 -u "$MNT"
        start_background
        assert_equal "$(stat -c %s "$MNT/f$i")" 3000000
    done
}

@test "SIGTERM while files are open: mapped pages are kept, users get ENOTCONN" {
    command -v python3 >/dev/null || skip "needs python3"
    start_store
    python3 - "$MNT/mapped" "$BATS_TEST_TMPDIR/go" >"$BATS_TEST_TMPDIR/said" 3>&- <<'PYTHON' &
import errno, mmap, os, sys, time
f = open(sys.argv[1], 'w+b')
f.truncate(1 << 20)
m = mmap.mmap(f.fileno(), 1 << 20)
m[:] = b'y' * (1 << 20)
open(sys.argv[2], 'w').close()
while os.path.exists(sys.argv[2]):
    time.sleep(0.02)
try:
    os.fsync(f.fileno())
except OSError as e:
    print(errno.errorcode[e.errno], flush=True)
os._exit(0)
PYTHON
    local user=$!
    for _ in {1..200}; do [ -e "$BATS_TEST_TMPDIR/go" ] && break; sleep 0.05; done
    kill "$DAEMON"
    wait "$DAEMON"
    rm "$BATS_TEST_TMPDIR/go"
    wait "$user"
    assert_regex "$(cat "$BATS_TEST_TMPDIR/said")" '^(ENOTCONN|ECONNABORTED)$'
    start_store
    assert_equal "$(tr -d y <"$MNT/mapped" | wc -c)" 0
    assert_equal "$(stat -c %s "$MNT/mapped")" 1048576
}

@test "SIGTERM on a slow disk: what was stored through a mapping is waited for" {
    command -v python3 >/dev/null || skip "needs python3"
    export LD_PRELOAD=$SHALE_BIN/../tests/libfault.so FAULT=write_ms=300
    start_store
    unset LD_PRELOAD FAULT
    python3 - "$MNT/mapped" "$BATS_TEST_TMPDIR/go" 3>&- <<'PYTHON' &
import mmap, os, sys, time
f = open(sys.argv[1], 'w+b')
f.truncate(24 << 20)
m = mmap.mmap(f.fileno(), 24 << 20)
m[:] = b'y' * (24 << 20)
open(sys.argv[2], 'w').close()
while os.path.exists(sys.argv[2]):
    time.sleep(0.02)
os._exit(0) # closing would have Linux wait
PYTHON
    local user=$!
    for _ in {1..200}; do [ -e "$BATS_TEST_TMPDIR/go" ] && break; sleep 0.05; done
    kill "$DAEMON"
    wait "$DAEMON"
    rm "$BATS_TEST_TMPDIR/go"
    wait "$user"
    start_store
    assert_equal "$(tr -d y <"$MNT/mapped" | wc -c)" 0
    assert_equal "$(stat -c %s "$MNT/mapped")" $((24 << 20))
}

@test "SIGTERM leaves another mount over ours alone" {
    require_root
    start_store
    mount -t tmpfs none "$MNT"
    kill "$DAEMON"
    wait "$DAEMON"
    [[ $(mount_line "$MNT") == *tmpfs* ]]
    umount "$MNT"
    umount "$MNT"
}

@test "mount options reach the kernel" {
    require_root
    start_store
    [[ $(mount_line "$MNT") != *nosuid* && $(mount_line "$MNT") != *nodev* ]]
    stop_store
    start_store -o nodev,nosuid,noexec,allow_other -o max_read=128K
    local option
    for option in nodev nosuid noexec allow_other default_permissions max_read=131072; do
        [[ $(mount_line "$MNT") == *"$option"* ]] || fail "$option is missing"
    done
    head -c 1000000 /dev/urandom >"$BATS_TEST_TMPDIR/data"
    cp "$BATS_TEST_TMPDIR/data" "$MNT/data"
    restart_store
    cmp "$BATS_TEST_TMPDIR/data" "$MNT/data"
}

@test "an ordinary user mounts, uses and unmounts" {
    require_root # to become one
    [ "$(stat -Lc %a /dev/fuse)" = 666 ] || skip "/dev/fuse is not for everybody here"
    # shellcheck disable=SC2086 # $as is several words
    local dir as="setpriv --reuid 65534 --regid 65534 --clear-groups"
    dir=$(mktemp -d)
    chown 65534:65534 "$dir"
    cp "$(command -v shalefs)" "$dir/"
    mkdir "$dir/mnt"
    chown 65534:65534 "$dir/mnt"
    run $as "$dir/shalefs" "$dir/store" "$dir/mnt" 3>&-
    assert_success
    run $as sh -c "echo hi >$dir/mnt/f && cat $dir/mnt/f && stat -c %u $dir/mnt/f && ls $dir/mnt/.shale"
    local said=$output
    $as fusermount3 -u "$dir/mnt"
    for _ in {1..100}; do [ -n "$(daemons_of "$dir")" ] || break; sleep 0.1; done
    rm -r "$dir"
    assert_equal "$said" $'hi\n65534\nstats\nstats.json'
}

@test "who unmounts before the daemon has looked at its own mount finds it ending well" {
    require_root
    for _ in {1..12}; do
        shalefs "$STORE" "$MNT" -f >>"$LOG" 2>&1 3>&- &
        DAEMON=$!
        until is_mounted "$MNT"; do kill -0 "$DAEMON"; done
        umount "$MNT" || umount -l "$MNT" # busy: it is looking just now
        wait "$DAEMON"
    done
}

@test "writeback: cp of a file that a program is still writing to finds no holes in what it wrote" {
    start_store -o writeback
    mkfifo "$BATS_TEST_TMPDIR/go"
    python3 - "$MNT/f" "$BATS_TEST_TMPDIR/go" <<'PY' 3>&- &
import os, sys
f = open(sys.argv[1], "wb", buffering=0)
f.write(b"a" * (1 << 20))
os.fsync(f.fileno())
f.write(b"b" * (1 << 20))
open(sys.argv[2], "w").close()      # both: written,
open(sys.argv[2], "r").read()       # and copied
PY
    local writer=$!
    cat "$BATS_TEST_TMPDIR/go"
    cp --sparse=auto "$MNT/f" "$BATS_TEST_TMPDIR/copy"
    : >"$BATS_TEST_TMPDIR/go"
    wait "$writer"
    cmp "$MNT/f" "$BATS_TEST_TMPDIR/copy"
}

@test "an ordinary user's mount whose root he may not read himself ends by SIGTERM" {
    require_root
    require_fuse
    local as="setpriv --reuid 65534 --regid 65534 --clear-groups" dir pid
    dir=$(mktemp -d /tmp/shale-user.XXXXXX)
    mkdir "$dir/m"
    chown 65534 "$dir" "$dir/m"
    if ! $as shalefs "$dir/s" "$dir/m" 2>"$dir/err" 3>&-; then
        cat "$dir/err"
        grep -qE 'fusermount3|not allowed|/dev/fuse' "$dir/err" && rm -r "$dir" && skip "users may not mount here"
        return 1
    fi
    $as sh -c "echo text >$dir/m/f && chmod 0 $dir/m"
    pid=$(daemons_of "$dir")
    kill "$pid"
    wait_gone "$pid" 300 || fail "the daemon is still there"
    local left
    left=$(mounts_below "$dir")
    [ -z "$left" ] || umount -l "$dir/m"
    shale get "$dir/s" /f >"$dir/got"
    [ "$(cat "$dir/got")" = text ]
    rm -r "$dir"
    [ -z "$left" ]
}
