#!/usr/bin/env bats
# Ordinary programs do their ordinary work on a mount.

load helper

setup_test() {
    export HOME=$BATS_TEST_TMPDIR/home GIT_CONFIG_NOSYSTEM=1
    mkdir "$HOME"
    git config --global safe.directory '*'
    git config --global user.name Tester
    git config --global user.email tester@example.org
    git config --global init.defaultBranch main
    start_store -o write_buffer=256K
}

# The project's own files, without what was built.
copy_project() { # TARGET
    mkdir "$1"
    tar -C "$TOP" --exclude=./build --exclude=./.git -cf - . | tar -C "$1" -xf -
}

@test "git: init, commit, branch, gc, fsck, clone" {
    copy_project "$MNT/project"
    cd "$MNT/project"
    git init -q
    git add -A
    git commit -q -m first
    git checkout -q -b other
    git mv LICENSE COPYING
    echo change >>COPYING
    git commit -q -a -m second
    git gc -q
    git fsck --full --strict
    assert_equal "$(git status --porcelain)" ''
    git clone -q "$MNT/project" "$MNT/clone"
    git -C "$MNT/clone" fsck --full
    git -C "$MNT/clone" checkout -q main
    cd /
    restart_store
    git -C "$MNT/project" fsck --full
    assert_equal "$(git -C "$MNT/clone" status --porcelain)" ''
}

@test "git: clone of this repository" {
    git -C "$TOP" rev-parse -q --verify HEAD >/dev/null 2>&1 || skip "not in a git repository with commits"
    git clone -q --no-hardlinks "$TOP" "$MNT/clone"
    git -C "$MNT/clone" fsck --full
    assert_equal "$(git -C "$MNT/clone" rev-parse HEAD)" "$(git -C "$TOP" rev-parse HEAD)"
    assert_equal "$(git -C "$MNT/clone" status --porcelain)" ''
}

@test "tar there and back" {
    copy_project "$BATS_TEST_TMPDIR/project"
    tar -C "$BATS_TEST_TMPDIR" --format=pax -cf "$MNT/p.tar" project
    tar -C "$MNT" --format=pax -xf "$MNT/p.tar"
    assert_same_tree "$BATS_TEST_TMPDIR/project" "$MNT/project"
    run tar -C "$MNT" -df "$MNT/p.tar"
    assert_success
    assert_output ''
}

@test "rsync there, changed, again" {
    copy_project "$BATS_TEST_TMPDIR/project"
    rsync -aHAX "$BATS_TEST_TMPDIR/project/" "$MNT/project/"
    assert_same_tree "$BATS_TEST_TMPDIR/project" "$MNT/project"
    echo more >>"$BATS_TEST_TMPDIR/project/LICENSE"
    rm -r "$BATS_TEST_TMPDIR/project/tests"
    rsync -aHAX --delete --inplace "$BATS_TEST_TMPDIR/project/" "$MNT/project/"
    assert_same_tree "$BATS_TEST_TMPDIR/project" "$MNT/project"
}

sqlite_round() { # JOURNAL_MODE
    sqlite3 "$MNT/db" "PRAGMA journal_mode=$1; CREATE TABLE t(id INTEGER PRIMARY KEY, v TEXT); CREATE INDEX i ON t(v);"
    local i
    for i in 1 2 3 4 5; do
        sqlite3 "$MNT/db" "
            WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n WHERE x < 2000)
            INSERT INTO t(v) SELECT hex(randomblob(50)) FROM n;
            UPDATE t SET v = v || 'u' WHERE id % 3 = 0; DELETE FROM t WHERE id % 7 = 0;"
        assert_equal "$(sqlite3 "$MNT/db" 'PRAGMA integrity_check')" ok
    done
    local sum
    sum=$(sqlite3 "$MNT/db" 'SELECT count(*), sum(length(v)) FROM t')
    restart_store
    assert_equal "$(sqlite3 "$MNT/db" 'PRAGMA integrity_check')" ok
    assert_equal "$(sqlite3 "$MNT/db" 'SELECT count(*), sum(length(v)) FROM t')" "$sum"
}

@test "sqlite3 with a rollback journal" { sqlite_round DELETE; }
@test "sqlite3 with a write-ahead log" { sqlite_round WAL; }

@test "sqlite3 survives kill -9 of the daemon" {
    sqlite3 "$MNT/db" "PRAGMA journal_mode=WAL; CREATE TABLE t(id INTEGER PRIMARY KEY, v TEXT);" >/dev/null
    (
        for i in {1..1000}; do
            sqlite3 "$MNT/db" "INSERT INTO t(id, v) VALUES($i, hex(randomblob(500)))" || exit 0
            echo "$i" >"$BATS_TEST_TMPDIR/last"
        done
    ) 2>/dev/null 3>&- &
    local writer=$!
    sleep 1
    kill_store
    wait "$writer" || true
    start_store "${START_ARGUMENTS[@]}"
    assert_equal "$(sqlite3 "$MNT/db" 'PRAGMA integrity_check')" ok
    [ "$(sqlite3 "$MNT/db" 'SELECT count(*) FROM t')" -ge "$(cat "$BATS_TEST_TMPDIR/last")" ]
}

@test "find, grep, du, sort, mv and rm of a tree" {
    copy_project "$BATS_TEST_TMPDIR/project"
    copy_project "$MNT/project"
    cd "$MNT"
    assert_equal "$(find project | wc -l)" "$(find "$BATS_TEST_TMPDIR/project" | wc -l)"
    assert_equal "$(grep -r static project | wc -l)" "$(grep -r static "$BATS_TEST_TMPDIR/project" | wc -l)"
    assert_equal "$(du -b --apparent-size project/LICENSE | cut -f1)" "$(stat -c %s "$TOP/LICENSE")"
    seq 100000 | sort -R -T "$MNT" -S 1M >numbers
    assert_equal "$(sort -n -T "$MNT" -S 1M numbers | md5sum)" "$(seq 100000 | md5sum)"
    mkdir deep
    mv project deep/moved
    diff -r deep/moved "$BATS_TEST_TMPDIR/project"
    rm -r deep
    assert_not_exist deep
    cd /
}

@test "configure, build and run a small project" {
    mkdir "$MNT/hello"
    cd "$MNT/hello"
    cat >CMakeLists.txt <<'EOF'
cmake_minimum_required(VERSION 3.20)
project(hello C)
add_library(greet SHARED greet.c)
add_executable(hello main.c)
target_link_libraries(hello greet)
EOF
    printf '#include <stdio.h>\nvoid greet(void) { puts("hello"); }\n' >greet.c
    printf 'void greet(void);\nint main(void) { greet(); return 0; }\n' >main.c
    cmake -G Ninja -B build >/dev/null
    cmake --build build
    assert_equal "$(build/hello)" hello
    # Timestamps are right: nothing to do the second time, one file after a touch.
    run cmake --build build
    assert_output --partial "no work to do"
    sleep 0.01
    touch main.c
    run cmake --build build
    assert_output --partial "main.c"
    cd /
}
