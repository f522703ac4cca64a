#!/usr/bin/env bats
# What POSIX promises must hold although the kernel answers most by itself: it keeps attributes, names and pages for ever,
# and neither opens nor closes are told to the daemon (fs/README.md, "The connection").

load helper

setup_test() {
    command -v python3 >/dev/null || skip "needs python3"
}

# In the mount, with what most of the scripts use.
in_mount() {
    (cd "$MNT" && python3 -c "import os, mmap, stat, time, errno
$1")
}

@test "a file that is unlinked, or replaced, while it is open lives on for who has it open" {
    start_store
    in_mount '
for size in (10, 3000, 300000):
    fd = os.open("f", os.O_CREAT | os.O_RDWR)
    os.write(fd, b"a" * size)
    os.unlink("f")
    assert not os.path.exists("f") and os.fstat(fd).st_nlink == 0
    os.pwrite(fd, b"b", size)
    assert os.pread(fd, size + 2, 0) == b"a" * size + b"b"
    other = os.open("f", os.O_CREAT | os.O_EXCL | os.O_RDWR)
    assert os.fstat(other).st_size == 0 and os.fstat(other).st_ino != os.fstat(fd).st_ino
    open("g", "wb").write(b"new")
    os.rename("g", "f")
    os.write(other, b"old")
    assert os.pread(other, 9, 0) == b"old" and open("f", "rb").read() == b"new"
    os.close(fd)
    os.close(other)
    os.unlink("f")
'
    # Nothing is left of them once they are closed.
    local i
    for ((i = 0; i < 50; i++)); do
        ! grep -q ' 0 unlinked' "$MNT/.shale/stats" || break
        sleep 0.1
    done
    grep -q ' 0 unlinked' "$MNT/.shale/stats"
}

@test "O_CREAT, O_EXCL, O_TRUNC and O_APPEND on files that are there, cached or not" {
    start_store
    in_mount '
open("f", "wb").write(b"0123456789")
assert open("f", "rb").read() == b"0123456789"
fd = os.open("f", os.O_RDWR)
before = os.fstat(fd).st_ctime_ns
os.close(os.open("f", os.O_WRONLY | os.O_TRUNC))
assert os.pread(fd, 10, 0) == b"" and os.fstat(fd).st_size == 0 and os.fstat(fd).st_ctime_ns > before
os.close(os.open("f", os.O_WRONLY | os.O_CREAT | os.O_TRUNC))
try:
    os.open("f", os.O_CREAT | os.O_EXCL)
    assert False
except FileExistsError:
    pass
a, b = (os.open("f", os.O_WRONLY | os.O_APPEND) for _ in "ab")
for i in range(10):
    os.write(a, b"a")
    os.write(b, b"b")
assert os.pread(fd, 100, 0) == b"ab" * 10
ro = os.open("new", os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o400)  # writable for who made it
assert os.write(ro, b"x") == 1 and stat.S_IMODE(os.stat("new").st_mode) == 0o400
os.symlink("target", "link")
os.close(os.open("link", os.O_CREAT | os.O_WRONLY))
assert os.path.isfile("target")
'
}

@test "after a write that failed for want of space the file is what the others made of it, and close succeeds" {
    require_root
    mkdir "$BATS_TEST_TMPDIR/small"
    mount -t tmpfs -o size=120m tmpfs "$BATS_TEST_TMPDIR/small"
    STORE=$BATS_TEST_TMPDIR/small/store
    start_store -o memory=16M
    in_mount '
fd = os.open("f", os.O_CREAT | os.O_RDWR)
block = os.urandom(1 << 20)
done = 0
try:
    while done < 400:
        assert os.write(fd, block) == len(block)
        done += 1
except OSError as e:
    assert e.errno == errno.ENOSPC
assert done < 400
size = os.fstat(fd).st_size
assert done << 20 <= size < done + 1 << 20
for i in (0, done - 1):
    assert os.pread(fd, 1 << 20, i << 20) == block
os.close(fd)
assert os.stat("f").st_size == size
'
    kill_store
    umount "$BATS_TEST_TMPDIR/small"
}

@test "what is written through a mapping has its contents, its mtime and its ctime" {
    start_store
    in_mount '
open("f", "wb").write(bytes(100000))
os.utime("f", (1, 1))
before = os.stat("f")
time.sleep(0.02)
fd = os.open("f", os.O_RDWR)
m = mmap.mmap(fd, 100000)
m[50000:50003] = b"abc"
m.flush()
after = os.stat("f")
assert after.st_mtime_ns > before.st_mtime_ns and after.st_ctime_ns > before.st_ctime_ns
assert os.pread(fd, 3, 50000) == b"abc"
os.pwrite(fd, b"def", 60000)
assert m[60000:60003] == b"def"
m[0:1] = b"x"
m.close()
os.close(fd)
'
    restart_store
    in_mount '
data = open("f", "rb").read()
assert data[0:1] == b"x" and data[50000:50003] == b"abc" and data[60000:60003] == b"def"
'
}

@test "permissions are checked anew after chmod and chown, what is open stays open" {
    require_root
    start_store -o allow_other
    chmod 755 "$MNT"
    cat >"$BATS_TEST_TMPDIR/nobody.py" <<'PYTHON'
import os, sys
def tried(path, flags):
    try:
        os.close(os.open(path, flags))
        return True
    except PermissionError:
        return False
os.chdir(sys.argv[1])
os.seteuid(65534)
assert tried("f", os.O_RDONLY) and not tried("f", os.O_WRONLY)
kept = os.open("f", os.O_RDONLY)
os.seteuid(0); os.chmod("f", 0o600); os.seteuid(65534)
assert not tried("f", os.O_RDONLY) and os.pread(kept, 1, 0) == b"x"
os.seteuid(0); os.chown("f", 65534, 65534); os.seteuid(65534)
assert tried("f", os.O_RDWR)
os.chmod("f", 0)
assert not tried("f", os.O_RDONLY)
os.seteuid(0); os.mkdir("d", 0o700); open("d/g", "w").close(); os.seteuid(65534)
assert not tried("d/g", os.O_RDONLY)
os.seteuid(0); os.chmod("d", 0o711); os.seteuid(65534)
assert tried("d/g", os.O_RDONLY)
os.seteuid(0); os.chmod("d", 0o700); os.seteuid(65534)
assert not tried("d/g", os.O_RDONLY)
PYTHON
    echo x >"$MNT/f"
    python3 "$BATS_TEST_TMPDIR/nobody.py" "$MNT"
}

@test "writing clears setuid and setgid, and file capabilities" {
    require_root
    start_store -o allow_other
    chmod 755 "$MNT"
    echo x >"$MNT/f"
    chown 65534 "$MNT/f"
    chmod 6755 "$MNT/f"
    (cd "$MNT" && setpriv --reuid 65534 --regid 65534 --clear-groups sh -c 'echo y >>f')
    assert_equal "$(stat -c %a "$MNT/f")" 755
    setfattr -n security.capability -v 0x0100000200040000000000000000000000000000 "$MNT/f"
    echo z >>"$MNT/f"
    run getfattr -n security.capability "$MNT/f"
    assert_failure
}

@test "relatime: the first read after a change counts, the next does not; noatime: none does" {
    start_store
    # What the kernel has in its cache it reads without asking: a remount empties it.
    in_mount 'open("f", "wb").write(b"x" * 5000)'
    restart_store
    in_mount 'before = os.stat("f"); time.sleep(0.02); open("f", "rb").read(); a = os.stat("f").st_atime_ns
assert a > before.st_mtime_ns'
    restart_store
    in_mount 'before = os.stat("f").st_atime_ns; time.sleep(0.02); open("f", "rb").read()
assert os.stat("f").st_atime_ns == before'
    in_mount 'open("f", "ab").write(b"y")'
    stop_store
    start_store -o noatime
    in_mount 'before = os.stat("f").st_atime_ns; time.sleep(0.02); open("f", "rb").read()
assert os.stat("f").st_atime_ns == before'
}

@test "listings follow what happens to the directory, however often they were read" {
    start_store
    in_mount '
os.mkdir("d")
names = set()
for i in range(300):
    open(f"d/{i}", "w").close()
    names.add(str(i))
    if i % 7 == 0:
        assert set(os.listdir("d")) == names
for i in range(0, 300, 3):
    os.unlink(f"d/{i}")
    names.discard(str(i))
    if i % 5 == 0:
        assert set(os.listdir("d")) == names
os.rename("d/1", "d/one")
names = names - {"1"} | {"one"}
assert set(os.listdir("d")) == names == {e.name for e in os.scandir("d")}
'
}

@test "what .shale shows is of the moment at which it was opened" {
    start_store
    in_mount '
import json
first = open(".shale/stats.json")
for i in range(50):
    open(f"f{i}", "w").close()
second = json.load(open(".shale/stats.json"))
first = json.load(first)
assert second["batches"] >= first["batches"] + 50
for i in range(400):  # more than there can be at a time
    assert open(".shale/stats").read().startswith("store")
assert os.stat(".shale/stats").st_size > 100
try:
    open(".shale/stats", "w")
    assert False
except PermissionError:
    pass
'
}

@test "-o writeback: the same contents, times and sizes" {
    start_store -o writeback
    cp -a "$TOP/fs" "$MNT/"
    assert_same_tree "$TOP/fs" "$MNT/fs"
    in_mount '
fd = os.open("f", os.O_CREAT | os.O_RDWR)
for i in range(1000):
    os.pwrite(fd, b"%03d" % i, i * 3)
os.fsync(fd)
assert os.fstat(fd).st_size == 3000
os.truncate("f", 1000)
assert os.pread(fd, 5000, 996) == b"332" + b"3"
'
    restart_store
    assert_same_tree "$TOP/fs" "$MNT/fs"
    assert_equal "$(stat -c %s "$MNT/f")" 1000
}

# The daemon takes setuid and setgid away where the kernel leaves that to it (FUSE_HANDLE_KILLPRIV_V2): when, and that the
# kernel learns of it at once. Each line: who, what, the mode before and after. As ext4 does it.
@test "setuid, setgid and file capabilities go when a file is written to, cut or changes hands" {
    start_open_store
    cd "$MNT"
    touch f
    chown 5:6 f
    local who how before after
    while read -r who before after how; do
        chmod "$before" f
        if [ "$who" = other ]; then as 1234 sh -c "$how"; else sh -c "$how"; fi
        # First what an exec would see.
        if [ "$after" -lt 4000 ]; then run ! test -u f; else test -u f; fi
        echo "$who $before $how"
        [ "$(stat -c %a f)" = "$after" ]
    done <<'END'
other 6777 777 echo x >>f
other 6766 2766 echo x >>f
other 2777 777 echo x >>f
other 4777 777 : >f
other 6777 777 truncate -s 3 f
other 6777 777 fallocate -l 10000 f
other 6777 777 fallocate -p -o 0 -l 4096 f
root 6777 6777 echo x >>f
root 6777 6777 truncate -s 3 f
root 6777 777 chown 7 f
root 6766 2766 chown 5 f
root 6777 777 chgrp 8 f
END
    chmod 2755 .
    chown 3:4 .
    [ "$(stat -c %a .)" = 2755 ]
    chmod 777 f
    python3 - <<'END'
import os
capability = b"\1\0\0\2" + b"\0\40\0\0" + bytes(12)
def has():
    return "security.capability" in os.listxattr("f")
def gone(after):
    os.setxattr("f", "security.capability", capability)
    assert has()
    after()
    assert not has(), after
fd = os.open("f", os.O_RDWR)
os.write(fd, b"first, so that the kernel knows of none")
gone(lambda: os.write(fd, b"x"))
gone(lambda: os.truncate("f", 1))
gone(lambda: os.chown("f", 5, 6))
gone(lambda: os.posix_fallocate(fd, 0, 100))
END
}

@test "many writes ask for capabilities once" {
    start_store -d
    python3 -c '
import os, sys
fd = os.open(sys.argv[1] + "/f", os.O_CREAT | os.O_WRONLY)
for i in range(50):
    os.write(fd, b"x" * 100)' "$MNT"
    [ "$(grep -c 'opcode: WRITE ' "$LOG")" -ge 50 ] # what could not be done without waiting is shown twice
    [ "$(grep -c 'opcode: GETXATTR ' "$LOG")" -lt 10 ] || skip "this kernel asks each time"
}
