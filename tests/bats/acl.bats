#!/usr/bin/env bats
# POSIX ACLs: setfacl and getfacl, what is inherited, what the kernel makes of it for other users, and the programs that
# copy ACLs. acl(5)

load helper

setup_test() {
    command -v setfacl >/dev/null || skip "needs setfacl"
}

# The lines of an ACL, in one.
acl_of() { getfacl -cpEn "$1" | tr '\n' ' ' | sed 's/ *$//'; }

mode_of() { stat -c %a "$1"; }

@test "an access ACL and the mode are one thing, whichever is set" {
    start_store
    cd "$MNT"
    touch f
    chmod 640 f
    setfacl -m u:1234:rw,g:77:r f
    [ "$(acl_of f)" = "user::rw- user:1234:rw- group::r-- group:77:r-- mask::rw- other::---" ]
    [ "$(mode_of f)" = 660 ]
    [[ $(ls -l f) = "-rw-rw----+"* ]]
    chmod 704 f
    [ "$(acl_of f)" = "user::rwx user:1234:rw- group::r-- group:77:r-- mask::--- other::r--" ]
    setfacl -m m::r f
    [ "$(mode_of f)" = 744 ]
    setfacl -m u::r,o::x f
    [[ $(acl_of f) = "user::r-- "*"other::--x" ]]
    chown 5:6 f 2>/dev/null || true
    [[ $(acl_of f) = *"user:1234:rw-"* ]]
    # Nothing is left of one that says no more than the mode.
    setfacl -b f
    [ "$(acl_of f)" = "user::r-- group::r-- other::--x" ]
    [ -z "$(getfattr -d -m- f)" ]
    setfacl -m u:1:r f
    setfacl -x u:1,m f
    [ -z "$(getfattr -d -m- f)" ]
}

@test "ACLs outlive the cache, renames, second names, unlinking while open, and remounts" {
    start_store
    mkdir "$MNT/d"
    cd "$MNT/d"
    echo text >f
    setfacl -m u:1234:rw f
    setfacl -d -m u:1234:rwx,g:9:rx .
    local small many="" i want
    small=$(acl_of f)
    echo large >g
    for i in $(seq 1 400); do many+="u:$((10000 + i)):r,"; done # far over what fits into an inode
    setfacl -m "${many%,}" g
    want=$(acl_of g)
    [ "$(getfacl -cpE g | grep -c '^user:1')" -eq 401 ] # with the one that it inherited
    ln f second
    mv g h
    cd /
    restart_store
    [ "$(acl_of "$MNT/d/second")" = "$small" ]
    [ "$(acl_of "$MNT/d/h")" = "$want" ]
    [[ $(acl_of "$MNT/d") = *"default:user:1234:rwx"*"default:group:9:r-x"* ]]
    exec 8<"$MNT/d/h"
    rm "$MNT/d/h"
    python3 -c 'import os; assert len(os.getxattr(8, "system.posix_acl_access")) > 3000'
    exec 8<&-
    stop_store
    shale check "$STORE"
}

@test "new entries get their directory's default ACL instead of the umask" {
    start_store
    cd "$MNT"
    mkdir plain d
    setfacl -d -m u::rwx,u:1234:rwx,g::rx,o::- d
    umask 077
    touch plain/f d/f
    mkdir plain/s d/s
    mkfifo d/fifo
    ln -s nowhere d/link
    (umask 0 && touch plain/open d/open && mkdir d/wide)
    [ "$(mode_of plain/f) $(mode_of plain/s) $(mode_of plain/open)" = "600 700 666" ]
    [ "$(acl_of d/f)" = "user::rw- user:1234:rwx group::r-x mask::rw- other::---" ]
    [ "$(mode_of d/f)" = 660 ]
    [ "$(acl_of d/open)" = "$(acl_of d/f)" ]
    [ "$(acl_of d/fifo)" = "$(acl_of d/f)" ]
    [[ $(acl_of d/s) = "user::rwx user:1234:rwx group::r-x mask::rwx other::--- default:user::rwx"* ]]
    [ "$(mode_of d/s)" = 770 ]
    [ "$(acl_of d/wide)" = "$(acl_of d/s)" ]
    [ "$(mode_of d/link)" = 777 ]
    mkdir d/s/t && touch d/s/t/deep
    [ "$(acl_of d/s/t/deep)" = "$(acl_of d/f)" ]
    # The mode asked for bounds it.
    install -m 400 /dev/null d/installed
    python3 -c 'import os; os.close(os.open("d/asked", os.O_CREAT | os.O_WRONLY, 0o444)); os.mkdir("d/m", 0o500)'
    [ "$(mode_of d/installed) $(mode_of d/asked) $(mode_of d/m)" = "400 440 500" ]
    # One that says no more than a mode makes no ACLs of its own.
    mkdir e
    setfacl -d -m u::rwx,g::rx,o::x e
    touch e/f
    [ "$(mode_of e/f)" = 640 ]
    [ -z "$(getfattr -d -m- e/f)" ]
    # Removed, the umask counts again, also in a directory that the daemon has known with one.
    setfacl -k d
    touch d/after
    [ "$(mode_of d/after)" = 600 ]
}

@test "what the kernel lets other users do" {
    start_open_store
    cd "$MNT"
    echo text >f
    chmod 640 f
    mkdir d
    chmod 700 d
    echo inner >d/inner
    run ! as 1234 cat f
    setfacl -m u:1234:r f
    [ "$(as 1234 cat f)" = text ]
    run ! as 1234 sh -c 'echo more >>f'
    run ! as 1235 cat f
    setfacl -m u:1234:rw f
    as 1234 sh -c 'echo more >>f'
    chmod g-rw f # the mask
    run ! as 1234 cat f
    chmod g+r f
    [ "$(as 1234 head -n 1 f)" = text ]
    setfacl -m g:77:r f
    [ "$(setpriv --reuid 1 --regid 77 --clear-groups cat f | head -n 1)" = text ]
    setfacl -b f
    run ! as 1234 cat f
    setfacl -m u:1234:rwx d
    [ "$(as 1234 cat d/inner)" = inner ]
    as 1234 touch d/theirs
    [ "$(stat -c %u d/theirs)" = 1234 ]
    setfacl -m u:1234:rx d
    run ! as 1234 touch d/more
    # Whom it belongs to sets it, nobody else.
    run ! as 1234 setfacl -m u:1234:rwx f
    as 1234 setfacl -m u:5:r d/theirs
    run ! as 1235 setfacl -b d/theirs
}

@test "setgid goes when somebody who is not of the file's group sets an ACL" {
    start_open_store
    cd "$MNT"
    touch f g
    chown 1234:77 f g
    chmod 2750 f g
    as 1234 setfacl -m u:5:rx f
    [ "$(mode_of f)" = 750 ]
    setfacl -m u:5:rx g # by root it stays
    [ "$(mode_of g)" = 2750 ]
}

@test "what is no ACL is refused, and nothing has changed" {
    start_store
    cd "$MNT"
    touch f
    mkdir d
    ln -s f link
    python3 - <<'END'
import errno, os, struct

def acl(*entries, version=2):
    return struct.pack("<I", version) + b"".join(struct.pack("<HHI", *e) for e in entries)

U, USER, G, GROUP, M, O = 1, 2, 4, 8, 16, 32
N = 0xffffffff
good = [(U, 6, N), (USER, 7, 9), (G, 4, N), (M, 5, N), (O, 0, N)]

def refused(path, value, name="system.posix_acl_access", **more):
    try:
        os.setxattr(path, name, value, **more)
    except OSError as e:
        return e.errno
    raise AssertionError((path, name, value))

before = os.stat("f")
for bad in [
    acl(*good, version=1), acl(*good)[:-1], acl(*good) + b"x", b"\2\0",
    acl(*good[1:]), acl(*good[:-1]), acl(*good[:2], *good[3:]), acl(*good[:3], good[4]),
    acl(good[1], good[0], *good[2:]), acl(good[0], *good), acl(*good, good[4]),
    acl(good[0], (USER, 8, 9), *good[2:]), acl(good[0], (USER, 7, N), *good[2:]), acl((3, 6, N), *good[1:]),
]:
    assert refused("f", bad) in (errno.EINVAL, errno.EOPNOTSUPP), bad
assert refused("f", acl(*good), "system.posix_acl_default") == errno.EACCES
assert refused("link", acl(*good), follow_symlinks=False) == errno.EOPNOTSUPP
assert refused("f", b"1", "system.other") == errno.EOPNOTSUPP
huge = acl(good[0], *[(USER, 7, i) for i in range(600)], *good[2:])
assert refused("f", huge) in (errno.E2BIG, errno.ENOSPC)
after = os.stat("f")
assert (before.st_mode, before.st_ctime_ns) == (after.st_mode, after.st_ctime_ns)
assert os.listxattr("f") == []
os.setxattr("f", "system.posix_acl_access", acl(*good))
assert os.getxattr("f", "system.posix_acl_access") == acl(*good)
assert os.listxattr("f") == ["system.posix_acl_access"]
os.removexattr("f", "system.posix_acl_access")
os.removexattr("f", "system.posix_acl_access")
os.setxattr("d", "system.posix_acl_default", acl(*good))
os.removexattr("d", "system.posix_acl_default")
assert os.listxattr("d") == []
END
}

@test "-o noacl: no ACLs are shown, set or checked, and none is lost" {
    start_open_store
    touch "$MNT/f"
    chmod 600 "$MNT/f"
    setfacl -m u:1234:r "$MNT/f"
    mkdir "$MNT/d"
    setfacl -d -m u:1234:rwx,g:77:rwx "$MNT/d"
    restart_store
    as 1234 cat "$MNT/f"
    stop_store
    start_store -o allow_other,noacl
    run ! as 1234 cat "$MNT/f"
    run ! setfacl -m u:5:r "$MNT/f"
    run ! getfattr -n system.posix_acl_access "$MNT/f"
    (umask 027 && touch "$MNT/masked")
    [ "$(mode_of "$MNT/masked")" = 640 ]
    (umask 077 && touch "$MNT/d/masked" && mkdir "$MNT/d/sub")
    [ "$(mode_of "$MNT/d/masked") $(mode_of "$MNT/d/sub")" = "600 700" ]
    setfattr -n user.a -v 1 "$MNT/d"
    assert_equal "$(getfattr --absolute-names -m - "$MNT/d")" "# file: $MNT/d"$'\n'"user.a"
    stop_store
    start_store -o allow_other
    getfacl -d "$MNT/d" | grep -q group:77:rwx
    as 1234 cat "$MNT/f"
}

@test "cp -a, rsync -A and tar --acls copy ACLs in, within and out" {
    start_store
    local outside=$BATS_TEST_TMPDIR/outside
    mkdir -p "$outside/tree/sub" "$outside/back"
    echo text >"$outside/tree/sub/f"
    setfacl -m u:1234:rw "$outside/tree/sub/f" || skip "the tests' own disk has no ACLs"
    setfacl -d -m g:77:rx "$outside/tree/sub"
    local want
    want=$(cd "$outside/tree" && getfacl -Rcp .)
    same() { [ "$(cd "$1" && getfacl -Rcp .)" = "$want" ]; }
    cp -a "$outside/tree" "$MNT/cp"
    same "$MNT/cp"
    cp -a "$MNT/cp" "$MNT/again"
    same "$MNT/again"
    rsync -aA "$MNT/cp/" "$MNT/rsync/"
    same "$MNT/rsync"
    tar --acls -C "$MNT/cp" -cf "$MNT/t.tar" .
    mkdir "$MNT/tar"
    tar --acls -C "$MNT/tar" -xpf "$MNT/t.tar"
    same "$MNT/tar"
    cp -a "$MNT/tar" "$outside/back/tree"
    same "$outside/back/tree"
}

@test "an ordinary user's own mount has them, too" {
    require_root
    require_fuse
    local dir transport=${SHALE_TRANSPORT:-auto}
    dir=$(mktemp -d /tmp/shale-user.XXXXXX)
    mkdir "$dir/mnt"
    chown 65534 "$dir" "$dir/mnt"
    if ! as 65534 shalefs "$dir/store" "$dir/mnt" -o "transport=$transport" 2>"$dir/err" 3>&-; then
        cat "$dir/err"
        grep -qE 'fusermount3|not allowed|/dev/fuse' "$dir/err" && rm -r "$dir" && skip "users may not mount here"
        return 1
    fi
    as 65534 bash -e -c "cd '$dir/mnt' && mkdir d && setfacl -d -m u:9:rx d && touch d/f && getfacl -cpEn d/f" >"$dir/said"
    as 65534 shale umount "$dir/mnt"
    grep -q '^user:9:r-x' "$dir/said"
    rm -r "$dir"
}
