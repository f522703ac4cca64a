#!/usr/bin/env bats
# `shale check`: finds damage, says where, and with --repair makes a store that opens out of what is left.

load helper

setup_test() {
    start_store -o write_buffer=64K
    mkdir -p "$MNT/d"
    local i
    for i in {1..40}; do
        head -c $((i * 300)) /dev/urandom >"$MNT/d/f$i"
    done
    cp -r "$MNT/d" "$BATS_TEST_TMPDIR/copy"
    shale sync "$MNT"
}

# Overwrites bytes of a file of the store.
damage() { # FILE OFFSET COUNT
    head -c "$3" /dev/urandom | dd of="$STORE/$1" bs=1 seek="$2" conv=notrunc status=none
}

largest_table() { find "$STORE" -name '*.sst' -printf '%s %f\n' | sort -n | tail -n 1 | cut -d' ' -f2; }

# A store whose contents are in tables.
flush_store() {
    local i
    for i in {1..6}; do
        restart_store
        head -c 400000 /dev/urandom >"$MNT/filler$i"
        rm "$MNT/filler$i"
    done
    stop_store
    [ -n "$(largest_table)" ]
}

@test "check of a whole store" {
    stop_store
    run shale check "$STORE"
    assert_success
    assert_output --regexp "^$STORE: clean: [0-9]+ tables, [0-9]+ log records, 2 directories, 40 files\$"
    run shale check --repair "$STORE"
    assert_success
    [ ! -e "$STORE/lost" ]
    run shale check --json "$STORE"
    assert_success
    python3 -c 'import json, sys; r = json.loads(sys.argv[1]); assert r["clean"] and r["filesystem"]["files"] == 40' "$output"
}

@test "check of what can't be checked" {
    run --separate-stderr shale check "$STORE"
    assert_failure 3
    assert_output ''
    # shellcheck disable=SC2154 # bats sets it
    assert_equal "$stderr" "shale: check: $STORE: the store is mounted at $MNT: use the files there, or 'shale umount' it first"
    run --separate-stderr shale check --repair "$STORE"
    assert_failure 3
    stop_store
    mkdir "$BATS_TEST_TMPDIR/empty"
    run shale check "$BATS_TEST_TMPDIR/empty"
    assert_failure 3
    assert_output "shale: check: $BATS_TEST_TMPDIR/empty: not a ShaleFS store"
    [ -z "$(ls "$BATS_TEST_TMPDIR/empty")" ]
    run shale check
    assert_failure 2
    run shale check --nonsense "$STORE"
    assert_failure 2
}

@test "a damaged block: the rest is readable, check names it, repair saves the rest" {
    flush_store
    local table i good=0
    table=$(largest_table)
    damage "$table" 20000 100
    run shale check "$STORE"
    assert_failure 1
    assert_output --partial "$table, offset "
    assert_output --partial "DAMAGED"
    run shale check --json "$STORE"
    assert_failure 1
    python3 -c 'import json, sys; r = json.loads(sys.argv[1]); assert not r["clean"] and r["problems"]' "$output"
    run shale check --repair "$STORE"
    [[ $status -eq 1 || $status -eq 3 ]] || fail "exit status $status: $output"
    assert_output --partial "kept as lost/$table"
    [ -e "$STORE/lost/$table" ]
    start_store
    for i in {1..40}; do
        if cmp -s "$MNT/d/f$i" "$BATS_TEST_TMPDIR/copy/f$i"; then good=$((good + 1)); fi
    done
    [ "$good" -ge 20 ] || fail "only $good files are left"
    echo new >"$MNT/new"
    restart_store
    assert_equal "$(cat "$MNT/new")" new
}

@test "a damaged manifest: refused, and made anew out of the tables" {
    flush_store
    damage MANIFEST 20 8
    run shale check "$STORE"
    assert_failure 1
    assert_output --partial "MANIFEST, offset 120: checksum of the header does not match"
    run shale get "$STORE" /d/f1
    assert_failure 1
    run shale check --repair "$STORE"
    assert_failure 1
    assert_output --partial "files repaired without a manifest"
    run shale check "$STORE"
    assert_success
    start_store
    diff -r "$MNT/d" "$BATS_TEST_TMPDIR/copy"
}

@test "a damaged log is refused, and repair cuts it there" {
    local log=000001.log from to
    stop_store
    # In the middle of what is in no table yet. LSN 8 is where the first use of the first segment begins.
    read -r from to < <(shale stats "$STORE" |
        sed -n 's/^log positions *start \([0-9]*\),.* frontier \([0-9]*\)$/\1 \2/p')
    [ "$to" -gt $((from + 1000)) ] || fail "nothing is left in the log: $from to $to"
    damage "$log" $(((from + to) / 2 - 8)) 16
    run shale check "$STORE"
    assert_failure 1
    assert_output --partial "$log, offset "
    run shalefs "$STORE" "$MNT" -f
    assert_failure
    assert_output --partial "run \`shale check\`"
    run shale check --repair "$STORE"
    [[ $status -eq 1 || $status -eq 3 ]] || fail "exit status $status: $output"
    [ -e "$STORE/lost/$log" ]
    start_store
    local i
    for i in {1..40}; do # a moment of the copying: the last file may be half of it, none is wrong
        [ ! -s "$MNT/d/f$i" ] || cmp -n "$(stat -c %s "$MNT/d/f$i")" "$MNT/d/f$i" "$BATS_TEST_TMPDIR/copy/f$i"
    done
    [ -n "$(find "$MNT/d" -size +0 -name 'f*')" ]
}
