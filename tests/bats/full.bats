#!/usr/bin/env bats
# full.bats - the disk below the store is full: what needs space gets ENOSPC, rm, truncate and mv work, df tells
# the truth, and what was removed comes back, all without a remount.

load helper

setup_test() {
    require_fuse
    require_root
    DISK=$BATS_TEST_TMPDIR/disk
    STORE=$DISK/store
    mkdir "$DISK"
}

on_tmpfs() {
    mount -t tmpfs -o size=256m none "$DISK" || skip "no tmpfs can be mounted here"
}

on_ext4() {
    command -v mkfs.ext4 >/dev/null || skip "there is no mkfs.ext4 (e2fsprogs)"
    truncate -s 256M "$BATS_TEST_TMPDIR/image"
    mkfs.ext4 -q -m 0 "$BATS_TEST_TMPDIR/image"
    mount -o loop "$BATS_TEST_TMPDIR/image" "$DISK" || skip "no loop device can be mounted here"
}

available() { df --output=avail -B1 "$MNT" | tail -n 1; }

# Files of 1 MiB of noise, each a number of its own, until one does not fit.
fill() {
    local error
    while [ "$FILES" -lt 400 ]; do
        if ! error=$(head -c 1M /dev/urandom 2>&1 >"$MNT/file.$FILES"); then
            [[ $error == *"No space left on device"* ]] || fail "writing: $error"
            rm -f "$MNT/file.$FILES"
            return
        fi
        FILES=$((FILES + 1))
    done
    fail "400 MiB of noise fit into 256 MiB"
}

# Background work may still make a little room: until a file does not fit twice, 2 s apart.
fill_to_the_end() {
    local before
    FILES=${FILES:-0}
    for _ in {1..30}; do
        before=$FILES
        fill
        [ "$FILES" != "$before" ] || return 0
        sleep 2
    done
    fail "it does not get full"
}

# wait_until SECONDS COMMAND...
wait_until() {
    local i seconds=$1
    shift
    for ((i = 0; i < seconds * 2; i++)); do
        ! "$@" || return 0
        sleep 0.5
    done
    fail "not within $seconds s: $*"
}

has_space() { [ "$(available)" -ge "$1" ]; }
can_write() { head -c 1M /dev/urandom >"$MNT/again" 2>/dev/null; }

# Everything that a full disk promises, on whatever is mounted at $DISK.
full_and_back() {
    local free kept removed i
    start_store
    fill_to_the_end
    [ "$FILES" -ge 20 ] || fail "only $FILES MiB of 256 were usable"
    free=$(available)
    [ "$free" -le $((24 << 20)) ] || fail "nothing fits, and df shows $free bytes"
    run cat "$MNT/.shale/stats"
    assert_output --regexp "space .* reserve .* [1-9][0-9]* writes refused"
    md5sum "$MNT"/file.* >"$BATS_TEST_TMPDIR/sums" # reads do not wait

    # All of this frees space, or takes none.
    mv "$MNT/file.0" "$MNT/moved"
    mv "$MNT/moved" "$MNT/file.0"
    chmod 600 "$MNT/file.0"
    truncate -s 10 "$MNT/file.1"
    removed=0
    for ((i = 2; i < FILES; i += 2)); do
        rm "$MNT/file.$i"
        removed=$((removed + (1 << 20)))
    done
    wait_until 120 has_space $((removed / 2))
    wait_until 60 can_write
    rm "$MNT/again"

    # And once more, from there.
    fill_to_the_end
    rm -r "${MNT:?}"/file.*[13579]
    wait_until 120 can_write
    kept=$(grep -c 'file\.0$' "$BATS_TEST_TMPDIR/sums")
    [ "$kept" = 1 ]
    grep 'file\.0$' "$BATS_TEST_TMPDIR/sums" | md5sum -c --quiet
    stop_store
    run shale check "$STORE"
    assert_success
    umount "$DISK"
}

@test "a full tmpfs" {
    on_tmpfs
    full_and_back
}

@test "a full ext4" {
    on_ext4
    full_and_back
}

# btrfs writes elsewhere what is written over, so the log has to be exempt from that, or what frees space finds none for its
# record and the store turns read-only. Here the disk has nothing at all: another program has all that the reserve does not.
@test "a full btrfs: changes that take no space need none in the log" {
    local i said
    command -v mkfs.btrfs >/dev/null || skip "there is no mkfs.btrfs (btrfs-progs)"
    truncate -s 320M "$BATS_TEST_TMPDIR/image"
    mkfs.btrfs -q "$BATS_TEST_TMPDIR/image" >/dev/null
    mount -o loop "$BATS_TEST_TMPDIR/image" "$DISK" || skip "no btrfs on a loop device can be mounted here"
    start_store
    for i in {1..40}; do head -c 100K /dev/urandom >"$MNT/file.$i"; done
    shale sync "$MNT"
    for i in {1..5}; do # what Linux has still to write takes its place first
        cat /dev/zero >>"$DISK/other" 2>/dev/null || true
        sync -f "$DISK"
    done
    for i in {1..300}; do
        said=$(chmod "$((600 + i % 2 * 40))" "$MNT/file.1" 2>&1) || fail "chmod $i: $said"
        said=$(mv "$MNT/file.2" "$MNT/moved" 2>&1 && mv "$MNT/moved" "$MNT/file.2" 2>&1) || fail "mv $i: $said"
        [ $((i % 10)) -ne 0 ] || shale sync "$MNT" || fail "sync $i"
    done
    rm "$MNT"/file.1?
    truncate -s 10 "$MNT/file.3"
    shale sync "$MNT"
    rm "$DISK/other"
    wait_until 60 can_write
    stop_store
    run shale check "$STORE"
    assert_success
    umount "$DISK"
}
