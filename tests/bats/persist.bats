#!/usr/bin/env bats
# A tree copied in is the same tree: at once, after a remount, and after it went through all levels.

load helper

# Some thousand files that every machine with our build packages has, and one of each kind.
make_source() { # DIRECTORY
    local dir
    mkdir -p "$1"
    for dir in /usr/include/linux /usr/include/asm-generic /usr/share/cmake-*/Modules /usr/share/doc/lib[a-f]*; do
        if [ -d "$dir" ]; then
            mkdir -p "$1$dir"
            cp -a "$dir/." "$1$dir/"
        fi
    done
    mkdir "$1/kinds"
    echo one >"$1/kinds/one"
    ln "$1/kinds/one" "$1/kinds/two"
    ln -s one "$1/kinds/link"
    ln -s /nowhere "$1/kinds/dangling"
    mkfifo "$1/kinds/fifo"
    touch "$1/kinds/empty"
    truncate -s 10M "$1/kinds/sparse"
    printf end >>"$1/kinds/sparse"
    head -c 5000000 /dev/urandom >"$1/kinds/random"
    setfattr -n user.test -v value "$1/kinds/one" 2>/dev/null || true
    chmod 6711 "$1/kinds/empty"
    touch -h -d '2001-02-03 04:05:06.789' "$1/kinds/link" "$1/kinds/fifo" "$1/kinds/empty"
    [ "$(id -u)" -ne 0 ] || chown -h 123:456 "$1/kinds/dangling" "$1/kinds/random"
    touch -d '2002-02-02 02:02:02.222222222' "$1/kinds"
}

setup_test() {
    require_fuse
    SOURCE=$BATS_FILE_TMPDIR/source
    [ -d "$SOURCE" ] || make_source "$SOURCE"
}

@test "cp -a, compared at once and after a remount" {
    start_store
    cp -a "$SOURCE" "$MNT/copy"
    assert_same_tree "$SOURCE" "$MNT/copy"
    restart_store
    assert_same_tree "$SOURCE" "$MNT/copy"
    cp -a "$MNT/copy" "$BATS_TEST_TMPDIR/back"
    assert_same_tree "$SOURCE" "$BATS_TEST_TMPDIR/back"
}

@test "small write buffers: flushes, compactions, several levels, the same tree" {
    start_store -o write_buffer=64K,memory=16M
    local round
    for round in 1 2 3; do
        cp -a "$SOURCE" "$MNT/copy$round"
    done
    rm -r "$MNT/copy2"
    assert_same_tree "$SOURCE" "$MNT/copy1"
    restart_store
    assert_same_tree "$SOURCE" "$MNT/copy1"
    assert_same_tree "$SOURCE" "$MNT/copy3"
    assert_not_exist "$MNT/copy2"
    stop_store
    run stats_levels "$STORE"
    [ "${#lines[@]}" -ge 2 ] || {
        shale stats "$STORE"
        fail "levels with files: ${lines[*]}"
    }
}

@test "what was deleted gives its space back" {
    start_store -o write_buffer=1M
    head -c 100000000 /dev/urandom >"$MNT/large"
    shale sync "$MNT"
    local full now i
    full=$(du -sk "$STORE" | cut -f1)
    rm "$MNT/large"
    # Small writes push the deletions through the levels, as life does.
    for i in {1..100}; do
        head -c 100000 /dev/urandom >"$MNT/small$((i % 10))"
    done
    now=$full
    for i in {1..100}; do
        now=$(du -sk "$STORE" | cut -f1)
        [ "$now" -gt $((full - 60000)) ] || break
        sleep 0.1
    done
    [ "$now" -le $((full - 60000)) ] || fail "before $full KiB, after $now KiB"
}
