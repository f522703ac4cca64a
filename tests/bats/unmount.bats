#!/usr/bin/env bats
# What the daemon unmounts at its end: all of its own, and nothing else, whatever others do at that moment.

load helper

# The daemon's first call of syncfs or umount2 is preceded by a command.
start_with_command_before() { # CALL COMMAND
    export LD_PRELOAD=$SHALE_BIN/../tests/libfault.so FAULT=$1=1 FAULT_RUN="unset LD_PRELOAD; $2"
    start_store
    unset LD_PRELOAD FAULT FAULT_RUN
    local i # with another mount below, start_store takes that for ours
    for ((i = 0; i < 600; i++)); do
        ! grep -q ' mounted on ' "$LOG" || return 0
        sleep 0.05
    done
    fail "it did not mount"
}

# Between the mounting and the daemon's look at its mount: the first `stat` that it runs runs a command before.
start_with_command_in_check() { # COMMAND
    local bin=$BATS_TEST_TMPDIR/bin
    mkdir "$bin"
    cat >"$bin/stat" <<SH
#!/bin/sh
if [ "\$(cat /proc/\$PPID/comm)" = shalefs ]; then
    $1
    : >"$BATS_TEST_TMPDIR/ran"
fi >>"$LOG" 2>&1
exec $(command -v stat) "\$@"
SH
    chmod +x "$bin/stat"
    PATH=$bin:$PATH shalefs "$STORE" "$MNT" -f >>"$LOG" 2>&1 3>&- &
    DAEMON=$!
    local i
    for ((i = 0; i < 600; i++)); do
        [ ! -e "$BATS_TEST_TMPDIR/ran" ] || return 0
        sleep 0.05
    done
    fail "the mount was not checked"
}

end_by_sigterm() {
    kill "$DAEMON"
    wait_gone "$DAEMON" 300 || fail "the daemon is still there"
    wait "$DAEMON"
}

@test "unmounted by somebody else while SIGTERM syncs: what lies below stays" {
    require_root
    mount -t tmpfs none "$MNT"
    echo below >"$MNT/below"
    start_with_command_before syncfs "umount -l '$MNT'"
    end_by_sigterm
    assert_equal "$(cat "$MNT/below")" below
    umount "$MNT"
    refute is_mounted "$MNT"
}

@test "covered by somebody else while SIGTERM syncs: what covers it stays" {
    require_root
    start_with_command_before syncfs "mount -t tmpfs over '$MNT'"
    end_by_sigterm
    [[ $(mount_line "$MNT") == *' tmpfs over '* ]]
    grep -q 'is covered by another mount' "$LOG"
}

@test "covered in the very moment of unmounting: ours goes, too, and it is said" {
    require_root
    start_with_command_before umount2 "mount -t tmpfs over '$MNT'"
    end_by_sigterm
    assert_equal "$(mounts_below "$BATS_TEST_TMPDIR")" ''
    [ "$(grep -c 'something was mounted there just now' "$LOG")" -eq 1 ]
}

@test "another filesystem mounted over ours before it was checked is not taken for ours" {
    require_root
    require_fuse
    start_with_command_in_check "mount -t tmpfs over '$MNT'"
    end_by_sigterm
    [[ $(mount_line "$MNT") == *' tmpfs over '* ]]
    grep -q 'is covered by another mount' "$LOG"
}

@test "a bind mount over ours before it was checked is not taken for ours" {
    require_root
    require_fuse
    mkdir "$BATS_TEST_TMPDIR/dir"
    echo bound >"$BATS_TEST_TMPDIR/dir/f"
    start_with_command_in_check "mount --bind '$BATS_TEST_TMPDIR/dir' '$MNT'"
    end_by_sigterm
    assert_equal "$(cat "$MNT/f")" bound
}

@test "a connection aborted before it was checked: refused, and no dead mount is left" {
    require_root
    require_fuse
    local ctl=$BATS_TEST_TMPDIR/ctl
    mkdir "$ctl"
    mount -t fusectl fusectl "$ctl"
    start_with_command_in_check "echo 1 >'$ctl'/\$(mountpoint -d '$MNT' | cut -d : -f 2)/abort"
    wait_gone "$DAEMON" 300 || fail "the daemon is still there"
    run wait "$DAEMON"
    umount "$ctl"
    assert_equal "$(mounts_below "$BATS_TEST_TMPDIR")" ''
    grep -q 'does not answer' "$LOG"
}

@test "a mount that was bound elsewhere and over itself, aborted or ended: none of them is left dead" {
    require_root
    local how
    mkdir "$BATS_TEST_TMPDIR/elsewhere"
    for how in abort_connection end_by_sigterm; do
        start_store
        mount --bind "$MNT" "$BATS_TEST_TMPDIR/elsewhere"
        mount --bind "$MNT" "$MNT"
        $how
        wait_gone "$DAEMON" 300 || fail "the daemon is still there"
        assert_equal "$(mounts_below "$BATS_TEST_TMPDIR")" ''
    done
}

@test "without /proc: ended or aborted, the mount is gone, and what lies below it is not" {
    require_root
    require_fuse
    local how
    # shellcheck disable=SC2016
    for how in 'kill $daemon' 'echo 1 >ctl/$((device & 255 | device >> 12 & ~255))/abort'; do
        echo "$how"
        cd "$BATS_TEST_TMPDIR"
        # shellcheck disable=SC2016
        run unshare --mount --propagation private -- timeout 60 bash -ec '
            mkdir -p ctl
            mount -t fusectl fusectl ctl
            mount -t tmpfs none "$1"
            echo below >"$1/below"
            umount -l /proc
            shalefs "$0" "$1" -f & daemon=$!
            while [ -e "$1/below" ]; do kill -0 $daemon; sleep 0.1; done
            echo x >"$1/f"
            device=$(stat -c %d "$1")
            eval "$2"
            wait $daemon
            cat "$1/below"' "$STORE" "$MNT" "$how" 3>&-
        assert_success
        assert_line below
    done
}

@test "SIGTERM does not wait for ever for other filesystems, where ours cannot be synced alone" {
    require_root
    require_fuse
    local as="setpriv --reuid 65534 --regid 65534 --clear-groups" dir pid
    dir=$(mktemp -d /tmp/shale-user.XXXXXX)
    mkdir "$dir/m"
    chown 65534 "$dir" "$dir/m"
    chmod 755 "$dir"
    printf '#!/bin/sh\necho $$ >%s/asked\nexec sleep 300\n' "$dir" >"$dir/sync" # one that hangs
    chmod 755 "$dir/sync"
    if ! PATH=$dir:$PATH $as shalefs "$dir/s" "$dir/m" 2>"$dir/err" 3>&-; then
        cat "$dir/err"
        grep -qE 'fusermount3|not allowed|/dev/fuse' "$dir/err" && rm -r "$dir" && skip "users may not mount here"
        return 1
    fi
    $as chmod 0 "$dir/m"
    pid=$(daemons_of "$dir")
    kill "$pid"
    local gone=true left asked
    wait_gone "$pid" 600 || gone=false
    asked=$(cat "$dir/asked")
    kill "$asked"
    left=$(mounts_below "$dir")
    [ -z "$left" ] || umount -l "$dir/m"
    rm -r "$dir"
    [ $gone = true ] || fail "the daemon is still there"
    [ -z "$left" ]
    [ -n "$asked" ]
}
