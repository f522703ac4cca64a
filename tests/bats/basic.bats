#!/usr/bin/env bats
# Every kind of object and operation once, through ordinary programs, and again after a remount.

load helper

setup_test() { start_store; }

@test "write, read, append, overwrite" {
    echo hello >"$MNT/a"
    run cat "$MNT/a"
    assert_output hello
    echo world >>"$MNT/a"
    run cat "$MNT/a"
    assert_output $'hello\nworld'
    printf X | dd of="$MNT/a" bs=1 seek=1 conv=notrunc status=none
    run cat "$MNT/a"
    assert_output $'hXllo\nworld'
    : >"$MNT/a"
    assert_equal "$(stat -c %s "$MNT/a")" 0
    restart_store
    assert_equal "$(stat -c %s "$MNT/a")" 0
}

@test "contents of all sizes around the layouts' bounds survive a remount" {
    local size
    mkdir "$MNT/sizes" "$BATS_TEST_TMPDIR/sizes"
    for size in 0 1 255 256 257 4095 4096 4097 65535 65536 65537 1048575 1048576 1048577 3000000; do
        head -c "$size" /dev/urandom >"$BATS_TEST_TMPDIR/sizes/$size"
        cp "$BATS_TEST_TMPDIR/sizes/$size" "$MNT/sizes/$size"
    done
    diff -r "$BATS_TEST_TMPDIR/sizes" "$MNT/sizes"
    restart_store
    diff -r "$BATS_TEST_TMPDIR/sizes" "$MNT/sizes"
}

@test "directories: mkdir, ls, rmdir, links, not empty" {
    mkdir -p "$MNT/d/e/f"
    touch "$MNT/d/file"
    assert_equal "$(ls "$MNT/d")" $'e\nfile'
    assert_equal "$(stat -c %h "$MNT/d")" 3
    run rmdir "$MNT/d"
    assert_failure
    assert_output --partial "Directory not empty"
    rm -r "$MNT/d"
    assert_not_exist "$MNT/d"
    run ls "$MNT/d"
    assert_output --partial "No such file or directory"
    assert_equal "$(ls -A "$MNT")" ''
}

@test "rename: files, directories, over an existing name, across directories" {
    mkdir "$MNT/a" "$MNT/b"
    echo 1 >"$MNT/a/x"
    echo 2 >"$MNT/b/y"
    mv "$MNT/a/x" "$MNT/a/z"
    mv "$MNT/a/z" "$MNT/b/y"
    assert_equal "$(cat "$MNT/b/y")" 1
    assert_equal "$(ls -A "$MNT/a")" ''
    mv "$MNT/b" "$MNT/a/"
    assert_equal "$(cat "$MNT/a/b/y")" 1
    run mv -T "$MNT/a" "$MNT/a/b/c"
    assert_failure
    mkdir "$MNT/full"
    touch "$MNT/full/x"
    run mv -T "$MNT/a/b" "$MNT/full"
    assert_failure
    restart_store
    assert_equal "$(cat "$MNT/a/b/y")" 1
}

@test "hard links share everything and count" {
    echo data >"$MNT/one"
    ln "$MNT/one" "$MNT/two"
    mkdir "$MNT/d"
    ln "$MNT/two" "$MNT/d/three"
    assert_equal "$(stat -c %h "$MNT/one")" 3
    assert_equal "$(stat -c %i "$MNT/one")" "$(stat -c %i "$MNT/d/three")"
    echo more >>"$MNT/d/three"
    chmod 600 "$MNT/two"
    rm "$MNT/one"
    restart_store
    assert_equal "$(cat "$MNT/two")" $'data\nmore'
    assert_equal "$(stat -c '%h %a' "$MNT/d/three")" "2 600"
    rm "$MNT/two" "$MNT/d/three"
    restart_store
    assert_equal "$(find "$MNT" -type f)" ''
}

@test "symbolic links" {
    echo data >"$MNT/file"
    ln -s file "$MNT/link"
    ln -s "$(printf 'x%.0s' {1..4000})" "$MNT/long"
    assert_equal "$(cat "$MNT/link")" data
    assert_equal "$(readlink "$MNT/link")" file
    restart_store
    assert_equal "$(readlink "$MNT/long" | wc -c)" 4001
    assert_equal "$(stat -c '%F %s' "$MNT/link")" "symbolic link 4"
    rm "$MNT/file"
    run cat "$MNT/link"
    assert_output --partial "No such file"
}

@test "unlinked files live while they are open" {
    head -c 300000 /dev/urandom >"$BATS_TEST_TMPDIR/data"
    cp "$BATS_TEST_TMPDIR/data" "$MNT/file"
    exec 8<"$MNT/file"
    rm "$MNT/file"
    assert_not_exist "$MNT/file"
    cmp /dev/fd/8 "$BATS_TEST_TMPDIR/data"
    exec 8<&-
}

@test "modes, setuid, sticky, umask" {
    touch "$MNT/f"
    assert_equal "$(stat -c %a "$MNT/f")" 644
    (umask 077 && touch "$MNT/g")
    assert_equal "$(stat -c %a "$MNT/g")" 600
    chmod 4755 "$MNT/f"
    mkdir -m 1777 "$MNT/tmp"
    restart_store
    assert_equal "$(stat -c %a "$MNT/f")" 4755
    assert_equal "$(stat -c %a "$MNT/tmp")" 1777
}

@test "owners and the group of setgid directories" {
    require_root
    mkdir "$MNT/d"
    chown 12345:54321 "$MNT/d"
    chmod g+s "$MNT/d"
    touch "$MNT/d/f"
    mkdir "$MNT/d/e"
    restart_store
    assert_equal "$(stat -c %u:%g "$MNT/d")" 12345:54321
    assert_equal "$(stat -c %g "$MNT/d/f")" 54321
    assert_equal "$(stat -c '%g %A' "$MNT/d/e")" "54321 drwxr-sr-x"
}

@test "permissions are checked" {
    require_root
    stop_store
    start_store -o allow_other
    chmod 755 "$BATS_RUN_TMPDIR" "$BATS_RUN_TMPDIR/test" "$BATS_TEST_TMPDIR" "$MNT"
    echo secret >"$MNT/f"
    chmod 600 "$MNT/f"
    setpriv --reuid 12345 --regid 12345 --clear-groups test -e "$MNT/f"
    run setpriv --reuid 12345 --regid 12345 --clear-groups cat "$MNT/f"
    assert_failure
    assert_output --partial "Permission denied"
    run setpriv --reuid 12345 --regid 12345 --clear-groups touch "$MNT/new"
    assert_failure
}

@test "times to the nanosecond" {
    touch -d '2001-02-03 04:05:06.123456789' "$MNT/f"
    touch -a -d '1999-12-31 23:59:59.999999999' "$MNT/f"
    touch -d '1960-01-01 00:00:00.000000001' "$MNT/before-the-epoch"
    touch -d '2300-01-01 00:00:00.5' "$MNT/far"
    restart_store
    assert_equal "$(stat -c '%y' "$MNT/f")" "2001-02-03 04:05:06.123456789 +0000"
    assert_equal "$(stat -c '%x' "$MNT/f")" "1999-12-31 23:59:59.999999999 +0000"
    assert_equal "$(stat -c '%y' "$MNT/before-the-epoch")" "1960-01-01 00:00:00.000000001 +0000"
    assert_equal "$(stat -c '%y' "$MNT/far")" "2300-01-01 00:00:00.500000000 +0000"
}

@test "a directory's times follow its entries" {
    mkdir "$MNT/d"
    touch -d '2001-01-01' "$MNT/d"
    touch "$MNT/d/f"
    [ "$(stat -c %Y "$MNT/d")" -gt 1000000000 ]
    touch -d '2001-01-01' "$MNT/d"
    rm "$MNT/d/f"
    [ "$(stat -c %Y "$MNT/d")" -gt 1000000000 ]
}

@test "truncate: shrink, grow, far" {
    head -c 200000 /dev/urandom >"$BATS_TEST_TMPDIR/data"
    cp "$BATS_TEST_TMPDIR/data" "$MNT/f"
    truncate -s 100001 "$MNT/f"
    truncate -s 100001 "$BATS_TEST_TMPDIR/data"
    cmp "$MNT/f" "$BATS_TEST_TMPDIR/data"
    truncate -s 300000 "$MNT/f"
    truncate -s 300000 "$BATS_TEST_TMPDIR/data"
    restart_store
    cmp "$MNT/f" "$BATS_TEST_TMPDIR/data"
    truncate -s 4E "$MNT/far"
    assert_equal "$(stat -c %s "$MNT/far")" 4611686018427387904
    truncate -s 10 "$MNT/far"
    assert_equal "$(od -An -tx1 "$MNT/far" | tr -d ' \n')" 00000000000000000000
}

@test "sparse files take no space and read as zeros" {
    dd if=/dev/urandom of="$MNT/s" bs=4096 count=1 seek=262144 status=none
    assert_equal "$(stat -c %s "$MNT/s")" 1073745920
    [ "$(stat -c %b "$MNT/s")" -lt 100 ]
    dd if="$MNT/s" bs=1M skip=500 count=3 status=none | cmp -n 3145728 - /dev/zero
    fallocate -p -o $((262144 * 4096)) -l 4096 "$MNT/s"
    restart_store
    dd if="$MNT/s" bs=4096 skip=262144 status=none | cmp -n 4096 - /dev/zero
    cp --sparse=always "$MNT/s" "$MNT/t"
    assert_equal "$(stat -c %s "$MNT/t")" 1073745920
    [ "$(du -k "$MNT/t" | cut -f1)" -lt 100 ]
}

@test "fifos and sockets" {
    mkfifo "$MNT/fifo"
    (echo through >"$MNT/fifo") 3>&- &
    assert_equal "$(cat "$MNT/fifo")" through
    restart_store
    assert_equal "$(stat -c %F "$MNT/fifo")" fifo
}

@test "device nodes" {
    require_root
    mknod "$MNT/null" c 1 3
    mknod "$MNT/loop" b 7 300
    restart_store
    assert_equal "$(stat -c '%F %t %T' "$MNT/null")" "character special file 1 3"
    assert_equal "$(stat -c '%F %t %T' "$MNT/loop")" "block special file 7 12c"
    echo gone >"$MNT/null"
}

@test "extended attributes, small and large" {
    touch "$MNT/f"
    setfattr -n user.small -v value "$MNT/f"
    setfattr -n user.empty "$MNT/f"
    setfattr -n user.large -v "$(printf 'y%.0s' {1..5000})" "$MNT/f"
    mkdir "$MNT/d"
    setfattr -n user.dir -v d "$MNT/d"
    mv "$MNT/f" "$MNT/d/g"
    restart_store
    assert_equal "$(getfattr --only-values -n user.small "$MNT/d/g")" value
    assert_equal "$(getfattr --only-values -n user.large "$MNT/d/g" | wc -c)" 5000
    assert_equal "$(getfattr --only-values -n user.dir "$MNT/d")" d
    setfattr -x user.small "$MNT/d/g"
    run getfattr -n user.small "$MNT/d/g"
    assert_failure
    assert_equal "$(getfattr --absolute-names -d "$MNT/d/g" | grep -c '^user')" 2
}

@test "names: 255 bytes, any bytes, too long" {
    local long
    long=$(printf 'n%.0s' {1..255})
    echo x >"$MNT/$long"
    echo y >"$MNT/"$'new\nline \xff\x01'
    run touch "$MNT/${long}n"
    assert_failure
    assert_output --partial "File name too long"
    restart_store
    assert_equal "$(cat "$MNT/$long")" x
    assert_equal "$(cat "$MNT/"$'new\nline \xff\x01')" y
    assert_equal "$(find "$MNT" -type f -print0 | tr -dc '\0' | wc -c)" 2
}

@test "df and stat -f" {
    run df -P "$MNT"
    assert_success
    [ "$(df --output=size "$MNT" | tail -n 1)" -gt 0 ]
    [ "$(df --output=avail "$MNT" | tail -n 1)" -gt 0 ]
    assert_equal "$(stat -f -c %l "$MNT")" 255
}

@test "fsync, O_SYNC and syncing a directory succeed" {
    dd if=/dev/zero of="$MNT/f" bs=64k count=4 conv=fsync status=none
    dd if=/dev/zero of="$MNT/g" bs=4k count=4 oflag=sync status=none
    dd if=/dev/zero of="$MNT/h" bs=4k count=4 oflag=direct status=none
    sync "$MNT/f" "$MNT"
    shale sync "$MNT"
}

@test "locks between processes" {
    touch "$MNT/lock"
    exec 8>"$MNT/lock"
    flock -n 8
    run flock -n "$MNT/lock" true 8>&-
    assert_failure
    exec 8>&-
    flock -n "$MNT/lock" true
}

@test "the control directory is reachable and not listed" {
    run ls -A "$MNT"
    assert_output ''
    run cat "$MNT/.shale/stats"
    assert_success
    assert_output --partial "$STORE"
    run touch "$MNT/.shale/x"
    assert_failure
}
