#!/usr/bin/env bash
# mounts.bash - finding and ending mounts and daemons; shared by bats (helper.bash) and the rehearsals.

mounts_below() {
    awk -v dir="$1/" 'index($5, dir) == 1 {gsub(/\\040/, " ", $5); print $5}' /proc/self/mountinfo | tac
}
is_mounted() { awk -v point="$1" '$5 == point {found = 1} END {exit !found}' /proc/self/mountinfo; }
mount_line() { awk -v point="$1" '$5 == point {line = $0} END {print line}' /proc/self/mountinfo; }

umount_lazily() {
    if [ "$(id -u)" -eq 0 ]; then umount -l "$1"; else fusermount3 -u -z "$1"; fi
}

# Processes of a program that were started for something below a directory.
processes_of() { # DIRECTORY PROGRAM
    local process argv arg
    for process in /proc/[0-9]*; do
        { mapfile -d '' -t argv <"$process/cmdline"; } 2>/dev/null || continue
        [ "${argv[0]##*/}" = "$2" ] || continue
        for arg in "${argv[@]:1}"; do
            case $arg in "$1"/*) echo "${process#/proc/}" && break ;; esac
        done
    done
}

daemons_of() { processes_of "$1" shalefs; }

# True when the process is gone (or a zombie of ours) within N tenths of a second.
wait_gone() { # PID TENTHS
    local i state
    for ((i = 0; i < $2; i++)); do
        state=$(awk '/^State:/ {print $2}' "/proc/$1/status" 2>/dev/null) || return 0
        [ -n "$state" ] && [ "$state" != Z ] || return 0
        sleep 0.1
    done
    return 1
}
