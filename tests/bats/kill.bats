#!/usr/bin/env bats
# kill -9 at random moments: what a system call returned success for is there at the next mount.

load helper

ROUNDS=${SHALE_LONG:+200}
ROUNDS=${ROUNDS:-20}

setup_test() {
    require_fuse
    SOURCE=$BATS_FILE_TMPDIR/source
    if [ ! -d "$SOURCE" ]; then
        mkdir -p "$SOURCE"
        cp -r /usr/include/linux/. "$SOURCE/"
        head -c 3000000 /dev/urandom >"$SOURCE/a-large-one"
        head -c 700000 /dev/urandom >"$SOURCE/netfilter/another"
        (cd "$SOURCE" && find . -type f | sort) >"$BATS_FILE_TMPDIR/names"
        (cd "$SOURCE" && xargs md5sum) <"$BATS_FILE_TMPDIR/names" >"$BATS_FILE_TMPDIR/sums"
    fi
}

# Copies file after file; a name goes to the list once its copy has returned.
copy_loop() { # TARGET LIST
    local name
    while read -r name; do
        mkdir -p "$1/${name%/*}" && cp -a "$SOURCE/$name" "$1/$name" || return 0
        echo "$name" >>"$2"
    done <"$BATS_FILE_TMPDIR/names"
} 2>/dev/null

check_round() { # TARGET LIST
    local target=$1 list=$2 name size
    find "$target" -ls >/dev/null
    [ -s "$list" ] || return 0
    # Finished: identical.
    awk 'NR == FNR {done[$0] = 1; next} substr($0, 35) in done' "$list" "$BATS_FILE_TMPDIR/sums" >"$list.sums"
    (cd "$target" && md5sum -c --quiet --strict "$list.sums") >"$list.bad" 2>&1 || {
        head -n 5 "$list.bad"
        return 1
    }
    # Everything else: not there, or a beginning of what it was to become.
    (cd "$target" && find . -type f | sort) | comm -13 <(sort "$list") - >"$list.others"
    [ "$(wc -l <"$list.others")" -le 1 ]
    while read -r name; do
        size=$(stat -c %s "$target/$name")
        head -c "$size" "$SOURCE/$name" | cmp - "$target/$name"
    done <"$list.others"
}

@test "$ROUNDS times kill -9 in the middle of copying" {
    seed_random
    local round copier finished=0 list
    for ((round = 1; round <= ROUNDS; round++)); do
        start_store -o write_buffer=$((64 << (RANDOM % 5)))K
        list=$BATS_TEST_TMPDIR/list$round
        : >"$list"
        mkdir "$MNT/$round"
        copy_loop "$MNT/$round" "$list" 3>&- &
        copier=$!
        sleep "0.$((1000 + RANDOM % 6000))"
        kill_store "$copier"
        start_store "${START_ARGUMENTS[@]}"
        check_round "$MNT/$round" "$list" || fail "round $round, killed after $(wc -l <"$list") files"
        finished=$((finished + $(wc -l <"$list")))
        # A tree from before two crashes; and deleting must work.
        if [ "$round" -gt 1 ]; then
            check_round "$MNT/$((round - 1))" "$BATS_TEST_TMPDIR/list$((round - 1))" ||
                fail "tree of round $((round - 1)) in round $round"
            rm -r "${MNT:?}/$((round - 1))"
        fi
        stop_store
    done
    echo "# $finished files were copied before the kills" >&3
    [ "$finished" -gt "$ROUNDS" ]
}

@test "kill -9 while directories are being renamed: each is in exactly one place" {
    seed_random
    local round i mover
    start_store -o write_buffer=64K
    mkdir "$MNT/a" "$MNT/b"
    for i in {1..50}; do
        mkdir "$MNT/a/$i"
        echo "$i" >"$MNT/a/$i/name"
    done
    for ((round = 1; round <= 5; round++)); do
        (
            while :; do
                mv "$MNT"/a/* "$MNT/b/" || exit 0
                mv "$MNT"/b/* "$MNT/a/" || exit 0
            done
        ) 2>/dev/null 3>&- &
        mover=$!
        sleep "0.$((1000 + RANDOM % 3000))"
        kill_store "$mover"
        start_store "${START_ARGUMENTS[@]}"
        assert_equal "$(cat "$MNT"/?/*/name | sort -n | tr '\n' ' ')" "$(seq -s ' ' 50) "
        for i in "$MNT"/?/*; do
            assert_equal "$(cat "$i/name")" "${i##*/}"
        done
    done
}

@test "kill -9 twice, also right after the mount" {
    start_store
    echo x >"$MNT/f"
    kill_store
    start_store
    kill_store
    start_store
    assert_equal "$(cat "$MNT/f")" x
    echo y >"$MNT/f"
    kill_store
    start_store
    assert_equal "$(cat "$MNT/f")" y
}
