#!/usr/bin/env bats
# The library as others use it: installed, found by pkg-config, linked both ways.

load helper

install_it() {
    PREFIX=$BATS_TEST_TMPDIR/prefix
    run cmake --install "$(dirname "$SHALE_BIN")" --prefix "$PREFIX"
    assert_success
    PKG_CONFIG_PATH=$(dirname "$(find "$PREFIX" -name shale.pc)")
    export PKG_CONFIG_PATH
}

not_sanitized() { # the library would want the sanitizer's, which the program is not linked with
    if nm -D "$SHALE_BIN/shale" | grep -qE '__[at]san_'; then
        skip "a build with sanitizers"
    fi
}

try_example() { # PROGRAM
    run "$1" "$STORE" here
    assert_output "here: 1"
    run "$1" "$STORE" here
    assert_output "here: 2"
    run "$1" /nowhere/at/all here
    assert_failure
    assert_output --partial "No such file"
}

@test "installed: a program is compiled and linked with the shared library, and runs" {
    not_sanitized
    install_it
    # shellcheck disable=SC2046 # words are what pkg-config prints
    cc -Wall -Wextra -Werror -o "$BATS_TEST_TMPDIR/visits" "$TOP/lsm/example/visits.c" \
        $(pkg-config --cflags --libs shale)
    LD_LIBRARY_PATH=$(pkg-config --variable=libdir shale)
    export LD_LIBRARY_PATH
    run ldd "$BATS_TEST_TMPDIR/visits"
    assert_output --partial libshale.so.0
    try_example "$BATS_TEST_TMPDIR/visits"
}

@test "installed: the same with the static library" {
    not_sanitized
    install_it
    local flags
    flags=$(pkg-config --static --cflags --libs shale | sed 's/-lshale/-l:libshale.a/')
    # shellcheck disable=SC2086
    cc -o "$BATS_TEST_TMPDIR/visits" "$TOP/lsm/example/visits.c" $flags
    run ldd "$BATS_TEST_TMPDIR/visits"
    refute_output --partial libshale
    try_example "$BATS_TEST_TMPDIR/visits"
}

@test "the shared library shows what the header declares, and nothing else" {
    local lib declared shown
    lib=$(dirname "$SHALE_BIN")/libshale.so
    shown=$(nm -D --defined-only "$lib" | awk '$2 == "T" {sub(/@.*/, "", $3); print $3}' | sort)
    declared=$(grep -oE '\blsm_[a-z_]+\(' "$TOP/lsm/include/shale/lsm.h" | tr -d '(' | sort -u)
    [ -n "$shown" ]
    # All that is shown is declared; the header also speaks of types of functions.
    run comm -23 <(echo "$shown") <(echo "$declared")
    assert_output ""
    run nm -D --defined-only "$lib"
    assert_output --partial "lsm_open@@SHALE_0.2"
}

@test "the header is C++, too" {
    command -v g++ >/dev/null || skip "no g++"
    echo '#include <shale/lsm.h>' >"$BATS_TEST_TMPDIR/t.cc"
    g++ -std=c++17 -Wall -Wextra -Werror -fsyntax-only -I"$TOP/lsm/include" "$BATS_TEST_TMPDIR/t.cc"
}
