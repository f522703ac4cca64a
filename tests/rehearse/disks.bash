#!/usr/bin/env bash
# disks.bash - disks for rehearsals: real block devices (loop) over a rehearse_disk, and filesystems on them.
#
#   disk_start DIRECTORY TYPE [--lie]   a disk served at DIRECTORY, for that type of filesystem
#   disk_cut DIRECTORY NEW SEED         its power goes; what is left is the disk at NEW. False if that failed
#   disk_info DIRECTORY NAME            what `info` says
#   loop_on FILE [SECTOR]               sets LOOP to a loop device over it
#   loop_off LOOP
#   disk_mount DIRECTORY TYPE MOUNT     mounts the filesystem on the disk; sets LOOP. False if it does not mount
#   disk_end DIRECTORY MOUNT LOOP       unmounts all of that
# shellcheck disable=SC2034

require_disks() {
    [ "$(id -u)" -eq 0 ] || skip "needs root, for loop devices"
    losetup -f >/dev/null 2>&1 || skip "there are no loop devices here"
}

# Whether filesystems of this type can be made and mounted here.
can_make() { # TYPE
    command -v "mkfs.$1" >/dev/null || return 1
    grep -qw "$1" /proc/filesystems || modprobe -q "$1" 2>/dev/null || return 1
    # A cut is a second filesystem with the same identity, which older kernels take for the first.
    [ "$1" != btrfs ] || [ -e /sys/fs/btrfs/features/temp_fsid ]
}

make_filesystem() { # TYPE DEVICE
    case $1 in
    ext4) mkfs.ext4 -q -F -E nodiscard "$2" ;;
    xfs) mkfs.xfs -q -f -K "$2" ;;
    btrfs) mkfs.btrfs -q -f -K "$2" ;;
    *) return 1 ;;
    esac >>"$LOG" 2>&1
}

# What the smallest filesystem of a type is that has room for a store, in MiB.
disk_mib() { # TYPE
    case $1 in
    ext4) echo 224 ;;
    *) echo 320 ;;
    esac
}

# Where a write may be torn. XFS needs blocks of its directories whole: recovery takes one for newer than the log by its
# beginning, and if its end is older it finds the checksum wrong and does not mount. So it gets a disk of 4 KiB sectors.
disk_sector() { # TYPE
    [ "$1" = xfs ] && echo 4096 || echo 512
}

disk_start() { # DIRECTORY TYPE [--lie]
    mkdir -p "$1"
    "$HELPERS/rehearse_disk" "$1" $(($(disk_mib "$2") << 20)) "$(disk_sector "$2")" "${@:3}" >>"$LOG" 2>&1 || fail "rehearse_disk at $1"
}

disk_cut() { # DIRECTORY NEW SEED
    mkdir -p "$2"
    echo "cut $3 $2" 2>/dev/null >"$1/ctl"
}

disk_info() { sed -n "s/^$2=//p" "$1/info"; } # DIRECTORY NAME

# Another process may take the free device that losetup found: it tries again.
loop_on() { # FILE [SECTOR]
    local i
    for ((i = 0; i < 50; i++)); do
        LOOP=$(losetup -f --show -b "${2:-512}" "$1" 2>>"$LOG") && break
        sleep 0.05
    done
    [ -n "$LOOP" ] || fail "no loop device for $1"
    LOOPS+=("$LOOP")
}

loop_off() { # LOOP
    local i
    for ((i = 0; i < 100; i++)); do
        losetup -d "$1" 2>/dev/null && break
        sleep 0.05
    done
    # It is given back when its last user has gone, which may be after that.
    for ((i = 0; i < 100; i++)); do
        losetup "$1" >/dev/null 2>&1 || break
        sleep 0.05
    done
    for i in "${!LOOPS[@]}"; do [ "${LOOPS[i]}" != "$1" ] || unset "LOOPS[i]"; done
}

disk_mount() { # DIRECTORY TYPE MOUNT [OPTIONS]
    local options=noatime${4:+,$4}
    [ "$2" != xfs ] || options+=,nouuid
    mkdir -p "$3"
    loop_on "$1/image" "$(disk_sector "$2")"
    mount -t "$2" -o "$options" "$LOOP" "$3" >>"$LOG" 2>&1
}

disk_end() { # DIRECTORY MOUNT LOOP
    local i
    for ((i = 0; i < 100; i++)); do
        is_mounted "$2" || break
        umount "$2" 2>/dev/null || sleep 0.05
    done
    loop_off "$3"
    for ((i = 0; i < 100; i++)); do
        is_mounted "$1" || break
        umount "$1" 2>/dev/null || sleep 0.05
    done
    is_mounted "$2" && fail "$2 stays mounted"
    is_mounted "$1" && fail "$1 stays mounted"
    return 0
}
