#!/usr/bin/env bats
# Stores that earlier releases wrote (tests/formats): they open, hold the same tree, and can be used.

load helper
# shellcheck source=/dev/null
. "$TOP/tests/formats/describe.bash"

# Every table that the old release wrote is read by a compaction and gone when this returns.
rewrite_tables() {
    local old round i
    old=$(cd "$STORE" && ls ./*.sst)
    [ -n "$old" ]
    for round in {1..40}; do
        mkdir "$MNT/filler"
        # In the old directory, too: what compactions must merge with.
        for i in {1..40}; do
            head -c 3000 /dev/urandom >"$MNT/filler/$i"
            head -c 3000 /dev/urandom >"$MNT/many/filler-$i"
        done
        rm -r "$MNT/filler" "$MNT"/many/filler-*
        shale sync "$MNT"
        # shellcheck disable=SC2086 # a list of names
        if [ -z "$(cd "$STORE" && ls $old 2>/dev/null)" ]; then
            touch -d '2024-02-29 12:34:56.123456789' "$MNT/many"
            return 0
        fi
    done
    fail "after $round rounds there are still tables of the old release"
}

use_store() { # NAME
    require_fuse
    local tree=$TOP/tests/formats/store-$1.tree
    tar -C "$BATS_TEST_TMPDIR" --no-same-owner -xf "$TOP/tests/formats/store-$1.tar.xz"
    # Without a mount, and without changing anything.
    run shale check "$STORE"
    assert_success
    assert_output --partial clean
    assert_equal "$(shale get "$STORE" /tail/inline)" tail
    # The log is replayed, the orphan is removed.
    start_store -o write_buffer=64K,memory=16M
    describe_tree "$MNT" | diff "$tree" -
    stop_store
    run shale check "$STORE"
    assert_success
    start_store -o write_buffer=64K,memory=16M
    rewrite_tables
    describe_tree "$MNT" | diff "$tree" -
    echo new >"$MNT/tail/inline"
    echo more >>"$MNT/kinds/extents"
    rm -r "$MNT/many"
    restart_store
    assert_equal "$(cat "$MNT/tail/inline")" new
    assert_equal "$(tail -c 5 "$MNT/kinds/extents")" more
    assert_not_exist "$MNT/many"
    stop_store
    run shale check "$STORE"
    assert_success
}

@test "a store of release 0.1" {
    use_store 0.1
}
