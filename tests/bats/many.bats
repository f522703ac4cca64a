#!/usr/bin/env bats
# Many files in one directory: all there, found quickly, and memory stays bounded.

load helper

# SHALE_LONG=1: ten times as many.
FILES=20000
[ -z "${SHALE_LONG:-}" ] || FILES=200000
MEMORY_M=32
# What the daemon needs besides memory=: program and libraries, stacks, request buffers, tables being written.
BASE_M=48

content() { printf '%01024d' "$1"; }

rss_m() { awk '/^VmRSS:/ {print int($2 / 1024)}' "/proc/$DAEMON/status"; }

assert_memory() {
    local now
    now=$(rss_m)
    echo "# resident after $1: $now MiB, allowed $((MEMORY_M + BASE_M))" >&3
    case $(file_sanitizer) in no) [ "$now" -le $((MEMORY_M + BASE_M)) ] ;; esac
}

# Sanitizers need memory of their own.
file_sanitizer() { if grep -q __asan_init "$SHALE_BIN/shalefs"; then echo yes; else echo no; fi; }

@test "$FILES files of 1 KiB in one directory" {
    start_store -o memory=${MEMORY_M}M
    mkdir "$MNT/d"
    local i
    for ((i = 0; i < FILES; i++)); do
        printf '%01024d' "$i" >"$MNT/d/file$i"
    done
    assert_memory writing
    assert_equal "$(find "$MNT/d" -name 'file*' | wc -l)" "$FILES"
    # shellcheck disable=SC2012 # ls -f is what is tested
    assert_equal "$(ls -f "$MNT/d" | wc -l)" $((FILES + 2))
    restart_store
    # shellcheck disable=SC2012
    assert_equal "$(ls -f "$MNT/d" | wc -l)" $((FILES + 2))
    assert_equal "$(ls "$MNT/d" | sort -u | wc -l)" "$FILES"
    for ((i = 0; i < FILES; i += FILES / 500)); do
        assert_equal "$(<"$MNT/d/file$i")" "$(content "$i")"
        [ ! -e "$MNT/d/missing$i" ]
    done
    assert_equal "$(find "$MNT/d" -type f -exec cat {} + | wc -c)" $((FILES * 1024))
    ls -l "$MNT/d" >/dev/null
    assert_memory reading
    # Half of it goes while somebody reads.
    find "$MNT/d" -name '*[02468]' -delete
    # shellcheck disable=SC2012
    assert_equal "$(ls -f "$MNT/d" | wc -l)" $((FILES / 2 + 2))
    rm -r "$MNT/d"
    assert_equal "$(ls -A "$MNT")" ''
    assert_memory deleting
}

@test "reading a directory while it changes gives every lasting name exactly once" {
    start_store
    mkdir "$MNT/d"
    local i
    for ((i = 0; i < 3000; i++)); do : >"$MNT/d/stays$i"; done
    (
        for ((i = 0; ; i = (i + 1) % 500)); do
            : >"$MNT/d/comes$i"
            rm -f "$MNT/d/comes$(((i + 250) % 500))"
        done
    ) 2>/dev/null 3>&- &
    local changer=$!
    for i in 1 2 3 4 5; do
        # shellcheck disable=SC2010,SC2012 # ls -f is what is tested
        ls -f "$MNT/d" | grep '^stays' | sort >"$BATS_TEST_TMPDIR/seen"
        assert_equal "$(uniq -d <"$BATS_TEST_TMPDIR/seen")" ''
        assert_equal "$(wc -l <"$BATS_TEST_TMPDIR/seen")" 3000
    done
    kill "$changer"
    wait "$changer" || true
}
