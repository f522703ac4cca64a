# describe.bash - a directory tree as text: what a store must hold, whatever release reads it.
#
# One line each: type, mode, owner, group, links, size, time of change in ns, device, name, target of a link; then
# the sums of all contents, the extended attributes, and where sparse files have data.

# shellcheck shell=bash
describe_tree() { # DIRECTORY
    (
        cd "$1" || exit 1
        # The size of a directory, and when the root was changed, are no part of what was stored.
        find . -mindepth 1 -type d -printf '%y %m %U %G %n - %T@ - %P\n' | sort -k9
        find . -mindepth 1 ! -type d ! -type b ! -type c -printf '%y %m %U %G %n %s %T@ - %P -> %l\n' | sort -k9
        find . \( -type b -o -type c \) -exec stat -c '%F %a %u %g %h %s %Y %t:%T %n' {} + | sort -k9
        find . -type f ! -name sparse -exec sha256sum {} + | sort -k2
        getfattr -R -P -h -d -m '^user\.' . | sort
        python3 - <<'PYTHON'
import os
for root, _, names in os.walk("."):
    for name in names:
        if name == "sparse":
            with open(os.path.join(root, name), "rb") as f:
                at, end = 0, os.fstat(f.fileno()).st_size
                while at < end:
                    try:
                        at = os.lseek(f.fileno(), at, os.SEEK_DATA)
                    except OSError:
                        break
                    hole = os.lseek(f.fileno(), at, os.SEEK_HOLE)
                    f.seek(at)
                    print("data", root, name, at, hole, f.read(hole - at).strip(b"\0"))
                    at = hole
PYTHON
    )
}
