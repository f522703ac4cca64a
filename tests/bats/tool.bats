#!/usr/bin/env bats
# The command `shale` on stores that are not mounted, and what is said about damaged ones.

load helper

setup_test() {
    start_store -o write_buffer=64K
    mkdir -p "$MNT/d/e"
    echo hello >"$MNT/d/hello"
    touch -d '2001-02-03 04:05:06.123456789' "$MNT/d/hello"
    ln -s hello "$MNT/d/link"
    echo hidden >"$MNT/.hidden"
}

@test "help, version, wrong usage" {
    stop_store
    run shale --help
    assert_success
    assert_output --partial "umount MOUNTPOINT"
    run shale --version
    assert_success
    assert_output --regexp '^shale [0-9]+\.[0-9]+\.[0-9]+$'
    run shale
    assert_failure 2
    run shale nonsense
    assert_failure 2
    local cmd
    for cmd in get put rm ls stat stats scan umount sync; do
        run shale $cmd --help
        assert_success
        assert_output --partial "Usage: shale $cmd"
        run shale $cmd --nonsense
        assert_failure 2
        assert_output --partial "shale: $cmd: bad option '--nonsense'"
        run shale $cmd
        assert_failure 2
    done
    run shale get "$STORE" /a /b
    assert_failure 2
}

@test "get" {
    head -c 3000000 /dev/urandom >"$BATS_TEST_TMPDIR/data"
    cp "$BATS_TEST_TMPDIR/data" "$MNT/data"
    stop_store
    assert_equal "$(shale get "$STORE" /d/hello)" hello
    assert_equal "$(shale get "$STORE" d//hello)" hello
    shale get "$STORE" /data | cmp - "$BATS_TEST_TMPDIR/data"
    run --separate-stderr shale get "$STORE" /x
    assert_failure 1
    assert_output ''
    assert_equal "$stderr" "shale: get: /x: No such file or directory"
    run shale get "$STORE" /d
    assert_failure 1
    assert_output "shale: get: /d: Is a directory"
    run shale get "$STORE" /d/link
    assert_failure 1
    assert_output "shale: get: /d/link: is a symbolic link"
    run shale get "$STORE" /d/hello/x
    assert_failure 1
    assert_output "shale: get: /d/hello/x: Not a directory"
    run bash -c "shale get '$STORE' /data >/dev/full"
    assert_failure 1
    assert_output "shale: get: standard output: No space left on device"
}

@test "put creates, replaces, keeps the mode, makes parents" {
    chmod 640 "$MNT/d/hello"
    stop_store
    echo new | shale put "$STORE" /new
    assert_equal "$(shale get "$STORE" /new)" new
    head -c 3000000 /dev/urandom >"$BATS_TEST_TMPDIR/data"
    shale put "$STORE" /d/hello <"$BATS_TEST_TMPDIR/data"
    run shale put "$STORE" /no/such/dir/f </dev/null
    assert_failure 1
    assert_output "shale: put: /no/such/dir/f: No such file or directory"
    echo deep | shale put -p "$STORE" /no/such/dir/f
    : | shale put "$STORE" /empty
    run shale put "$STORE" /d </dev/null
    assert_failure 1
    run shale put "$STORE" / </dev/null
    assert_failure 1
    start_store
    cmp "$MNT/d/hello" "$BATS_TEST_TMPDIR/data"
    assert_equal "$(stat -c %a "$MNT/d/hello")" 640
    assert_equal "$(cat "$MNT/no/such/dir/f")" deep
    assert_equal "$(stat -c '%s %a' "$MNT/empty")" "0 644"
    assert_equal "$(find "$MNT" -name '.shale-put*')" ''
}

@test "put that is interrupted leaves nothing" {
    stop_store
    (sleep 5 | shale put "$STORE" /d/hello) 2>/dev/null 3>&- &
    local i pid=
    for i in {1..50}; do
        pid=$(pgrep -f "shale put $STORE" | head -n 1) && [ -n "$pid" ] && break
        sleep 0.05
    done
    sleep 0.2
    kill "$pid"
    wait_gone "$pid" 50
    assert_equal "$(shale get "$STORE" /d/hello)" hello
    assert_equal "$(shale ls -a "$STORE" /d | tr '\n' ' ')" ". .. e hello link "
}

@test "rm and rm -r" {
    mkdir -p "$MNT/tree/a/b/c"
    local i
    for i in {1..300}; do
        echo "$i" >"$MNT/tree/f$i"
        echo "$i" >"$MNT/tree/a/b/f$i"
    done
    head -c 1000000 /dev/urandom >"$MNT/tree/large"
    stop_store
    run shale rm "$STORE" /tree
    assert_failure 1
    assert_output "shale: rm: /tree: Is a directory"
    shale rm -r "$STORE" /tree
    shale rm "$STORE" /d/hello /d/link
    run shale rm "$STORE" /d/hello
    assert_failure 1
    assert_output "shale: rm: /d/hello: No such file or directory"
    run shale rm -r "$STORE" /
    assert_failure 1
    assert_equal "$(shale ls "$STORE")" d
    # Nothing of it is left in the store.
    assert_equal "$(shale scan "$STORE" | grep -c '^extent')" 0
    start_store
    assert_equal "$(find "$MNT" | sort | tr '\n' ' ')" "$MNT $MNT/.hidden $MNT/d $MNT/d/e "
}

@test "ls and ls -l" {
    stop_store
    assert_equal "$(shale ls "$STORE")" d
    assert_equal "$(shale ls -a "$STORE" / | tr '\n' ' ')" ". .. .hidden d "
    assert_equal "$(shale ls "$STORE" /d | tr '\n' ' ')" "e hello link "
    run shale ls -l "$STORE" /d
    assert_success
    assert_line --regexp "^-rw-r--r-- +1 $(id -un) +$(id -gn) +6 2001-02-03 04:05 hello$"
    assert_line --regexp '^lrwxrwxrwx .* link -> hello$'
    assert_line --regexp '^drwxr-xr-x .* e$'
    run shale ls "$STORE" /d/hello
    assert_output /d/hello
    run shale ls "$STORE" /nothing
    assert_failure 1
    assert_output "shale: ls: /nothing: No such file or directory"
}

@test "stat" {
    stop_store
    run shale stat "$STORE" /d/hello
    assert_success
    assert_line --regexp '^  File: /d/hello$'
    assert_line --regexp '^  Size: 6 .*regular file$'
    assert_line 'Modify: 2001-02-03 04:05:06.123456789 +0000'
    run shale stat "$STORE" /d/link
    assert_line --regexp '^  File: /d/link -> hello$'
    run shale stat "$STORE" /nothing
    assert_failure 1
}

@test "stats of a store and of a mount" {
    run shale stats "$MNT"
    assert_success
    assert_output --partial "$STORE"
    run shale stats --json "$MNT"
    assert_output --regexp '^\{.*\}$'
    stop_store
    run shale stats "$STORE"
    assert_success
    assert_output --partial "$STORE"
    run shale stats --json "$STORE"
    assert_output --regexp '^\{.*"shards".*\}$'
    run shale stats "$BATS_TEST_TMPDIR"
    assert_failure 1
    assert_output "shale: stats: $BATS_TEST_TMPDIR: not a ShaleFS store"
}

@test "scan shows readable records" {
    head -c 100000 /dev/urandom >"$MNT/data"
    local id
    id=$(stat -c %i "$MNT/data")
    stop_store
    run shale scan "$STORE"
    assert_success
    assert_line --regexp '^super	[0-9]+	'
    assert_line --regexp '^dir 1	[0-9]+	[0-9a-f]+'
    assert_line --regexp '^entry 1/[0-9a-f]{14}	'
    assert_line --regexp "^extent $id [0-9]+	"
    refute_line --regexp '^key '
    run shale scan --keys-only --prefix 0000000000000001 "$STORE"
    assert_line 'dir 1'
    assert_equal "$(printf '%s\n' "${lines[@]}" | grep -cvE '^(dir 1|(entry|small) 1/[0-9a-f/]+)$')" 0
    run shale scan --prefix 0g "$STORE"
    assert_failure 2
}

@test "a mounted store is refused, with the place of its mount" {
    local cmd
    for cmd in get rm ls stat put; do
        run shale $cmd "$STORE" /d/hello </dev/null
        assert_failure 1
        assert_output "shale: $cmd: $STORE: the store is mounted at $MNT: use the files there, or 'shale umount' it first"
    done
}

@test "what is no store is refused" {
    run shale ls "$BATS_TEST_TMPDIR/absent"
    assert_failure 1
    assert_output "shale: ls: $BATS_TEST_TMPDIR/absent: No such file or directory"
    run shale ls "$BATS_TEST_TMPDIR"
    assert_failure 1
    assert_output --partial "not a ShaleFS store"
    assert_equal "$(find "$BATS_TEST_TMPDIR" -maxdepth 1 -newer "$STORE" -name LOCK)" ''
}

flip_byte() { # FILE OFFSET
    local byte
    byte=$(od -An -tu1 -j "$2" -N 1 "$1")
    # shellcheck disable=SC2059 # the format is the byte
    printf "\\x$(printf %02x $((byte ^ 255)))" | dd of="$1" bs=1 seek="$2" conv=notrunc status=none
}

# 40 files of SIZE bytes; then the middle of the largest file of the store of kind KIND is damaged: one file is hit.
flip_and_read() { # KIND SIZE
    mkdir "$MNT/files" "$BATS_TEST_TMPDIR/files"
    local i
    for i in {1..40}; do
        head -c "$2" /dev/urandom >"$BATS_TEST_TMPDIR/files/$i"
        cp "$BATS_TEST_TMPDIR/files/$i" "$MNT/files/$i"
    done
    stop_store
    run -0 shale check "$STORE"
    local damaged
    damaged=$(find "$STORE" -name "*.$1" -printf '%s %p\n' | sort -n | tail -n 1 | cut -d' ' -f2-)
    assert_not_equal "$damaged" ''
    flip_byte "$damaged" $(($(stat -c %s "$damaged") / 2))
    start_store
    local bad=0
    for i in {1..40}; do
        if cat "$MNT/files/$i" >"$BATS_TEST_TMPDIR/read" 2>"$BATS_TEST_TMPDIR/error"; then
            cmp "$BATS_TEST_TMPDIR/read" "$BATS_TEST_TMPDIR/files/$i"
        else
            grep -q 'Input/output error' "$BATS_TEST_TMPDIR/error"
            bad=$((bad + 1))
        fi
    done
    assert_equal "$bad" 1
    grep -q "$(basename "$damaged")" "$LOG"
    echo still writable >"$MNT/new"
    stop_store || true
    run shale get "$STORE" /new
    assert_output "still writable"
    bad=0
    for i in {1..40}; do
        shale get "$STORE" "/files/$i" >/dev/null 2>"$BATS_TEST_TMPDIR/error" || bad=$((bad + 1))
    done
    assert_equal "$bad" 1
}

@test "a flipped bit in a table: EIO and a log line for what it hit, all else is readable" { flip_and_read sst 20000; }

@test "a flipped bit in a file of large contents: the same" { flip_and_read blob 200000; }

@test "a torn end of the log: mounts, and only what came last is gone" {
    stop_store
    start_store -o commit=300
    echo first >"$MNT/first"
    echo last >"$MNT/last"
    kill_store
    # The last bytes that were written are the last ones that are not zero: no segment was used twice yet.
    local log end
    log=$(find "$STORE" -name '*.log' -size +0 | while read -r f; do
        end=$(tail -c +1 "$f" | cmp -l - /dev/zero 2>/dev/null | tail -n 1 | awk '{print $1}')
        [ -z "$end" ] || echo "$(stat -c %Y "$f") $end $f"
    done | sort -n | tail -n 1)
    assert_not_equal "$log" ''
    read -r _ end log <<<"$log"
    flip_byte "$log" $((end - 1))
    start_store
    assert_equal "$(cat "$MNT/first")" first
    assert_equal "$(cat "$MNT/d/hello")" hello
    run cat "$MNT/last"
    refute_output last
    echo again >"$MNT/last"
    restart_store
    assert_equal "$(cat "$MNT/last")" again
}
