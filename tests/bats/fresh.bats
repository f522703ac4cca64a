#!/usr/bin/env bats
# The kernel keeps attributes for ever. What a change does to other objects (the directory, other names of a
# file, what was replaced) must be seen by the next stat all the same.

load helper

setup_test() {
    start_store
    cd "$MNT"
    echo one >f
    mkdir d
}

# The field FORMAT of FILE must be another one after COMMAND.
assert_changes() { # FILE FORMAT COMMAND...
    local file=$1 format=$2 before after
    shift 2
    before=$(stat -c "$format" "$file")
    sleep 0.02 # more than the clock's tick
    "$@"
    after=$(stat -c "$format" "$file")
    [ "$before" != "$after" ] || fail "$format of $file is still $before after: $*"
}
append() { echo more >>"$1"; }

@test "a file: writing, truncating, allocating, chmod, chown, touch, xattrs" {
    assert_changes f %s append f
    assert_changes f %y append f
    assert_changes f %z append f
    assert_changes f %b dd if=/dev/zero of=f bs=64K count=4 status=none
    assert_changes f %y truncate -s 100 f
    assert_changes f %s truncate -s 200 f
    assert_changes f %y fallocate -l 1M f
    assert_changes f %y fallocate -p -o 0 -l 4096 f
    assert_changes f %z chmod 600 f
    assert_changes f %z touch -d 2001-01-01 f
    assert_changes f %z setfattr -n user.a -v b f
    assert_changes f %z setfattr -x user.a f
}

@test "a file's other names: link, unlink, rename, being replaced" {
    assert_changes f %h ln f g
    assert_changes g %h ln f h
    assert_changes f %z rm h
    assert_equal "$(stat -c %h f g)" $'2\n2'
    assert_changes f %z mv g g2
    assert_changes g2 %z mv f ff
    echo two >two
    assert_changes g2 %h mv two ff
    assert_equal "$(stat -c %h g2 ff)" $'1\n1'
    assert_equal "$(cat ff)" two
}

@test "exchanging two files refreshes both" {
    command -v python3 >/dev/null || skip "needs python3"
    echo two >g
    exchange() {
        python3 -c 'import ctypes, sys
sys.exit(-ctypes.CDLL(None).renameat2(-100, b"f", -100, b"g", 2))'
    }
    assert_changes f %i exchange
    assert_changes f %z exchange
    assert_changes g %z exchange
    assert_equal "$(cat f g)" $'two\none'
}

@test "a directory: entries made, removed, moved" {
    assert_changes . %y touch n
    assert_changes . %z rm n
    assert_changes . %y ln f n
    assert_changes . %y ln -s x sym
    assert_changes . %h mkdir e
    assert_changes . %h rmdir e
    mkdir e
    assert_changes d %h mv e d/
    assert_changes d %y mv d/e .
    assert_changes d %y mv f d/
    assert_changes d %y mv d/f d/g
}

@test "an open file: other descriptors, unlinked, mapped" {
    command -v python3 >/dev/null || skip "needs python3"
    python3 - <<'PYTHON'
import mmap, os, time
a = os.open('u', os.O_CREAT | os.O_RDWR, 0o644)
b = os.open('u', os.O_RDONLY)
os.write(a, b'123')
assert os.fstat(b).st_size == 3
os.unlink('u')
assert os.fstat(b).st_nlink == 0
os.write(a, b'45')
assert os.pread(b, 10, 0) == b'12345'
os.ftruncate(a, 8192)
before = os.fstat(b).st_mtime_ns
time.sleep(0.02)
m = mmap.mmap(a, 8192)
m[0:4] = b'MMAP'
m.flush()
assert os.pread(b, 4, 0) == b'MMAP'
assert os.fstat(b).st_mtime_ns > before
PYTHON
}

@test "a name that was absent a moment ago" {
    assert_not_exist new
    touch new
    assert_exist new
    rm new
    assert_not_exist new
    mv f new
    assert_exist new
    assert_not_exist f
}

teardown() {
    cd /
    teardown_mounts
}
