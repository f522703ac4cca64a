#!/usr/bin/env bats
# Who can see, redirect or take over what: modes, symbolic links, other users, the daemon's privileges.

load helper

# A user without rights; the test's directory must be passable for him.
as_nobody() { setpriv --reuid=65534 --regid=65534 --clear-groups --no-new-privs -- "$@"; }
open_the_way() {
    local dir=$BATS_TEST_TMPDIR
    while [ "$dir" != / ]; do
        chmod o+x "$dir" 2>/dev/null || true
        dir=$(dirname "$dir")
    done
}

@test "the store's files are for their owner only, whatever the umask" {
    umask 000
    start_store
    head -c 3M /dev/urandom >"$MNT/f"
    sync "$MNT/f"
    stop_store
    assert_equal "$(stat -c %a "$STORE")" 700
    run find "$STORE" -mindepth 1 \( -not -type f -o -not -perm 0600 -o -not -uid "$(id -u)" \)
    assert_output ''
    run find "$STORE" -type f
    assert [ "${#lines[@]}" -ge 3 ]
}

@test "a file of the store that is a symbolic link is refused, and where it leads is untouched" {
    require_fuse
    start_store
    echo x >"$MNT/f"
    stop_store
    local name victim=$BATS_TEST_TMPDIR/victim
    for name in LOCK MANIFEST "$(basename "$(find "$STORE" -name '*.log' | head -n 1)")"; do
        cp "$STORE/$name" "$victim"
        local before after
        before=$(stat -c '%s %Y %Z' "$victim")
        mv "$STORE/$name" "$BATS_TEST_TMPDIR/kept"
        ln -s "$victim" "$STORE/$name"
        assert_refused shalefs "$STORE" "$MNT"
        assert_output --partial 'symbolic link'
        after=$(stat -c '%s %Y %Z' "$victim")
        assert_equal "$after" "$before"
        mv -f "$BATS_TEST_TMPDIR/kept" "$STORE/$name"
    done
    start_store
    assert_equal "$(cat "$MNT/f")" x
}

@test "a name that waits for us as a link is not written through" {
    local n
    start_store
    echo x >"$MNT/f"
    stop_store
    echo precious >"$BATS_TEST_TMPDIR/victim"
    for n in $(seq -f %06g 1 60); do
        [ -e "$STORE/$n.sst" ] || [ -e "$STORE/$n.log" ] || ln -s "$BATS_TEST_TMPDIR/victim" "$STORE/$n.sst"
    done
    ln -s "$BATS_TEST_TMPDIR/victim" "$STORE/MANIFEST.new"
    if start_store; then # refusing is as good
        head -c 3M /dev/urandom >"$MNT/g"
        stop_store
    fi
    assert_equal "$(cat "$BATS_TEST_TMPDIR/victim")" precious
}

@test "pipes and devices in the place of files are refused without waiting" {
    require_fuse
    start_store
    stop_store
    mv "$STORE/MANIFEST" "$BATS_TEST_TMPDIR/kept"
    mkfifo "$STORE/MANIFEST"
    assert_refused timeout 20 shalefs "$STORE" "$MNT"
}

@test "a directory in which others can put files is no store" {
    require_fuse
    mkdir -m 0770 "$STORE"
    assert_refused shalefs "$STORE" "$MNT"
    assert_output --partial 'chmod go-w'
    chmod 0757 "$STORE"
    assert_refused shalefs "$STORE" "$MNT"
    assert_equal "$(ls -A "$STORE")" ''
    chmod 0755 "$STORE"
    start_store
}

@test "the store may be moved while it is mounted, and nothing put in its place is touched" {
    start_store
    echo before >"$MNT/f"
    mv "$STORE" "$STORE.moved"
    mkdir "$BATS_TEST_TMPDIR/trap"
    ln -s "$BATS_TEST_TMPDIR/trap" "$STORE"
    head -c 3M /dev/urandom >"$MNT/g"
    sync "$MNT/g"
    df "$MNT" >/dev/null
    local sum
    sum=$(sha256sum <"$MNT/g")
    assert_equal "$(ls -A "$BATS_TEST_TMPDIR/trap")" ''
    rm "$STORE"
    mv "$STORE.moved" "$STORE"
    restart_store
    assert_equal "$(cat "$MNT/f")" before
    assert_equal "$(sha256sum <"$MNT/g")" "$sum"
}

@test "other users see nothing without allow_other" {
    require_root
    start_store
    echo secret >"$MNT/f"
    chmod 0777 "$MNT" && chmod 0666 "$MNT/f"
    open_the_way
    run as_nobody cat "$MNT/f"
    assert_failure
    assert_output --partial 'Permission denied'
    run as_nobody ls "$MNT"
    assert_failure
    run as_nobody find "$STORE"
    assert_output --partial 'Permission denied'
    run as_nobody cat "$STORE/MANIFEST"
    assert_failure
    refute_output --partial SHALE
}

@test "with allow_other modes and owners decide" {
    require_root
    start_store -o allow_other
    open_the_way
    echo public >"$MNT/public"
    echo secret >"$MNT/secret"
    chmod 0600 "$MNT/secret"
    mkdir -m 1777 "$MNT/tmp"
    echo mine >"$MNT/tmp/mine"
    assert_equal "$(as_nobody cat "$MNT/public")" public
    run as_nobody cat "$MNT/secret"
    assert_failure
    run as_nobody sh -c "echo x >'$MNT/new'"
    assert_failure
    run as_nobody rm -f "$MNT/tmp/mine" # sticky
    assert_failure
    as_nobody sh -c "echo his >'$MNT/tmp/his'"
    assert_equal "$(stat -c %u "$MNT/tmp/his")" 65534
    run as_nobody chown 0 "$MNT/tmp/his"
    assert_failure
    run as_nobody setfattr -n trusted.x -v 1 "$MNT/tmp/his"
    assert_failure
    # a stranger's setuid bit goes when somebody else writes
    as_nobody chmod 4777 "$MNT/tmp/his"
    echo more >>"$MNT/tmp/his"
    as_nobody sh -c "echo more >>'$MNT/tmp/his'"
    assert_equal "$(stat -c %a "$MNT/tmp/his")" 777
}

@test "a store of another user is refused, except for root" {
    require_root
    start_store
    stop_store
    open_the_way
    local other=$BATS_TEST_TMPDIR/other
    mkdir "$other" "$BATS_TEST_TMPDIR/mnt2"
    chown 65534:65534 "$BATS_TEST_TMPDIR/mnt2"
    run as_nobody shalefs "$STORE" "$BATS_TEST_TMPDIR/mnt2"
    assert_failure
    # root uses it, and needs what it keeps for that
    chown -R 65534:65534 "$STORE"
    start_store
    head -c 2M /dev/urandom >"$MNT/f"
    sync "$MNT/f"
    stop_store
    start_store
    assert_equal "$(stat -c %s "$MNT/f")" 2097152
}

# Runs the daemon so that its N-th CALL waits two seconds, and does something meanwhile.
# Meanwhile is a function; what the daemon says goes to $LOG, its status to $status.
while_waiting() { # CALL N MEANWHILE
    local tracer
    command -v strace >/dev/null || skip "needs strace"
    strace -f -qq -o "$BATS_TEST_TMPDIR/trace" -e "trace=$1" -e "inject=$1:delay_enter=2000000:when=$2" \
        shalefs "$STORE" "$MNT" -f >>"$LOG" 2>&1 3>&- &
    tracer=$!
    sleep 1
    "$3"
    wait_gone "$tracer" 300 || fail "the daemon serves: $(mounts_below "$BATS_TEST_TMPDIR")"
    status=0
    wait "$tracer" || status=$?
}

# The mount point's owner is not root: he puts a link where his directory was, while root is mounting there.
swap_mount_point() {
    mv "$MNT" "$MNT.away"
    ln -s "$BATS_TEST_TMPDIR/victim" "$MNT"
}

@test "a mount point that becomes a symbolic link while root mounts: nothing is mounted where it leads" {
    require_root
    require_fuse
    mkdir "$BATS_TEST_TMPDIR/victim"
    echo precious >"$BATS_TEST_TMPDIR/victim/f"
    while_waiting mount 1 swap_mount_point
    assert_equal "$status" 1
    refute is_mounted "$BATS_TEST_TMPDIR/victim"
    assert_equal "$(cat "$BATS_TEST_TMPDIR/victim/f")" precious
    assert_equal "$(mounts_below "$BATS_TEST_TMPDIR")" ''
    [ "$(grep -c 'does not answer' "$LOG")" -eq 1 ]
}

@test "SIGTERM does not unmount what a link leads to that was put in the mount point's place" {
    require_root
    mkdir "$BATS_TEST_TMPDIR/victim"
    mount -t tmpfs none "$BATS_TEST_TMPDIR/victim"
    start_store
    mv "$MNT" "$MNT.away" 2>/dev/null && fail "a mount point cannot be renamed"
    # but what it lies in can
    stop_store
    mkdir -p "$BATS_TEST_TMPDIR/his/mnt"
    MNT=$BATS_TEST_TMPDIR/his/mnt
    start_store
    mv "$BATS_TEST_TMPDIR/his" "$BATS_TEST_TMPDIR/away"
    mkdir "$BATS_TEST_TMPDIR/his"
    ln -s "$BATS_TEST_TMPDIR/victim" "$MNT"
    kill "$DAEMON"
    wait "$DAEMON"
    assert_equal "$(mounts_below "$BATS_TEST_TMPDIR")" "$BATS_TEST_TMPDIR/victim"
}

@test "root's daemon keeps only the capabilities it needs" {
    require_root
    start_store
    local status wanted=0000000000200004
    # CAP_DAC_READ_SEARCH (2) and CAP_SYS_ADMIN (21); where RLIMIT_NICE cannot be raised (setrlimit(2)), CAP_SYS_NICE (23), too
    (ulimit -H -e 20) 2>/dev/null || wanted=0000000000a00004
    status=$(cat "/proc/$DAEMON/status")
    assert_equal "$(awk '/^CapPrm/ {print $2}' <<<"$status")" "$wanted"
    assert_equal "$(awk '/^CapEff/ {print $2}' <<<"$status")" "$wanted"
    assert_equal "$(awk '/^CapInh/ {print $2}' <<<"$status")" 0000000000000000
    assert_equal "$(awk '/^CapBnd/ {print $2}' <<<"$status")" "$wanted"
    assert_equal "$(awk '/^NoNewPrivs/ {print $2}' <<<"$status")" 1
    local task
    for task in "/proc/$DAEMON/task"/*/status; do
        assert_equal "$(awk '/^CapEff/ {print $2}' "$task")" "$wanted"
    done
}

@test "the programs are hardened" {
    command -v readelf >/dev/null || skip "no readelf"
    local program
    for program in shalefs shale; do
        nm "$SHALE_BIN/$program" 2>/dev/null | grep -q __asan_init && skip "a build with sanitizers"
        readelf -h "$SHALE_BIN/$program" | grep -q 'Type:.*DYN'
        readelf -lW "$SHALE_BIN/$program" | grep -q GNU_RELRO
        readelf -dW "$SHALE_BIN/$program" | grep -q 'NOW'
        readelf -lW "$SHALE_BIN/$program" | grep 'GNU_STACK' | grep -qv 'RWE'
        readelf -sW "$SHALE_BIN/$program" | grep -q __stack_chk_fail
        readelf -sW "$SHALE_BIN/$program" | grep -qE '__(snprintf|memcpy|vsnprintf)_chk' # _FORTIFY_SOURCE
        # no segment both writable and executable, no path of the build machine, no relocations in code
        [ -z "$(readelf -lW "$SHALE_BIN/$program" | grep -E ' RWE ')" ]
        [ -z "$(readelf -dW "$SHALE_BIN/$program" | grep -E 'RPATH|RUNPATH|TEXTREL')" ]
        if readelf -h "$SHALE_BIN/$program" | grep -q X86-64; then
            objdump -d --no-show-raw-insn "$SHALE_BIN/$program" | grep -q endbr64 # -fcf-protection
        fi
    done
}

@test "an ordinary user mounts, uses and unmounts his own" {
    require_root
    command -v fusermount3 >/dev/null || skip "no fusermount3"
    [ -u "$(command -v fusermount3)" ] || skip "fusermount3 is not setuid here"
    as_nobody sh -c 'exec 9<>/dev/fuse' 2>/dev/null || skip "/dev/fuse is root's here"
    require_fuse
    open_the_way
    local his=$BATS_TEST_TMPDIR/his user=(setpriv --reuid=65534 --regid=65534 --clear-groups --)
    mkdir -p "$his/mnt"
    chown -R 65534:65534 "$his"
    run "${user[@]}" shalefs "$his/store" "$his/mnt" 3>&-
    [[ $output != *"Operation not permitted"* ]] || skip "fusermount3 may not mount here: $output"
    assert_success
    "${user[@]}" sh -c "echo x >'$his/mnt/f' && sync '$his/mnt/f'"
    assert_equal "$("${user[@]}" cat "$his/mnt/f")" x
    run cat "$his/mnt/f" # not even root
    assert_failure
    "${user[@]}" shale umount "$his/mnt"
    assert_equal "$("${user[@]}" shale get "$his/store" /f)" x
}
