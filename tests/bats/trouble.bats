#!/usr/bin/env bats
# What others do to the mount point, the store and the device while the daemon runs. tests/rehearse/rough does the
# same and more under load.

load helper

# In a mount namespace of its own.
elsewhere() { unshare --mount --propagation private -- bash -ec "$@"; }

@test "SIGTERM unmounts also where the mount point has been moved to" {
    require_root
    require_fuse
    mkdir -p "$BATS_TEST_TMPDIR/home/mnt"
    MNT=$BATS_TEST_TMPDIR/home/mnt
    start_store
    echo x >"$MNT/f"
    mv "$BATS_TEST_TMPDIR/home" "$BATS_TEST_TMPDIR/moved home"
    assert_equal "$(cat "$BATS_TEST_TMPDIR/moved home/mnt/f")" x
    kill "$DAEMON"
    wait "$DAEMON"
    assert_equal "$(mounts_below "$BATS_TEST_TMPDIR")" ''
    assert_equal "$(shale get "$STORE" /f)" x
}

@test "SIGTERM unmounts ours, not what lies under or over it" {
    require_root
    require_fuse
    mount -t tmpfs none "$MNT"
    echo below >"$MNT/below"
    start_store
    echo x >"$MNT/f"
    kill "$DAEMON"
    wait "$DAEMON"
    assert_equal "$(cat "$MNT/below")" below
    umount "$MNT"
}

@test "the mount point removed from another namespace: the daemon closes the store and ends well" {
    require_root
    start_store
    echo x >"$MNT/f"
    # shellcheck disable=SC2016
    elsewhere 'umount -l "$0" && rmdir "$0"' "$MNT"
    wait "$DAEMON"
    assert_equal "$(shale get "$STORE" /f)" x
}

@test "a store whose directory is removed: errors that say so, no crash" {
    require_fuse
    start_store -o write_buffer=64K
    rm -r "$STORE"
    local i status=0
    for ((i = 0; i < 400; i++)); do
        run --separate-stderr dd if=/dev/zero of="$MNT/f$i" bs=256K count=1 status=none
        [ "$status" -eq 0 ] || break
    done
    [ "$status" -ne 0 ] || fail "nothing was refused"
    # Not "no such file": that would be about the name that was asked for.
    # shellcheck disable=SC2154
    [[ $stderr == *"Input/output error"* || $stderr == *"Read-only file system"* ]] || fail "$stderr"
    kill "$DAEMON"
    status=0
    wait "$DAEMON" || status=$?
    [ "$status" -le 1 ] || fail "status $status"
    refute is_mounted "$MNT"
}

@test "another device or none in the place of /dev/fuse is refused in one line" {
    require_root
    require_fuse
    # shellcheck disable=SC2016
    run elsewhere 'mount --bind /dev/null /dev/fuse; exec shalefs "$0" "$1"' "$STORE" "$MNT"
    assert_failure 1
    assert_output 'shalefs: /dev/fuse is not the FUSE device; have the administrator put it there: mknod /dev/fuse c 10 229'
    assert_not_exist "$STORE"
    mkdir "$BATS_TEST_TMPDIR/dev"
    mknod -m 666 "$BATS_TEST_TMPDIR/dev/null" c 1 3
    # shellcheck disable=SC2016
    run elsewhere 'mount --bind "$2" /dev; exec shalefs "$0" "$1"' "$STORE" "$MNT" "$BATS_TEST_TMPDIR/dev"
    assert_failure 1
    assert_output --partial '/dev/fuse does not exist'
    assert_not_exist "$STORE"
}

@test "with too little memory for its threads the daemon ends in time, and nothing hangs" {
    require_root
    require_fuse
    local i status
    for i in {1..12}; do
        timeout -k 1 60 prlimit --as=$(((76 + i) << 20)) shalefs "$STORE" "$MNT" -f -o write_buffer=256K,memory=32M >"$LOG" 2>&1 &
        DAEMON=$!
        for _ in {1..600}; do
            ! grep -q ' mounted on ' "$LOG" || break
            kill -0 "$DAEMON" 2>/dev/null || break
            sleep 0.05
        done
        kill "$DAEMON" 2>/dev/null || true
        status=0
        wait "$DAEMON" || status=$?
        [ "$status" -le 1 ] || [ "$status" -eq 143 ] || fail "round $i: status $status: $(cat "$LOG")"
        refute is_mounted "$MNT"
    done
}
