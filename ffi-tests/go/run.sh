#!/bin/bash
# Runs go-dqlite on an installed libdqlite: our scenario and go-dqlite's own test suites, for each pinned release.
#
#   run.sh PREFIX [RELEASE...]     PREFIX as made by `cargo run -p ffi-tests -- install PREFIX`
#
# DQLITE_GO_ONLY=scenario or =suites runs that half only. The suites run in a scratch copy of the module cache; a test
# that fails there has to be listed in RELEASE/failing.txt, and one that is listed has to fail. As root everything runs
# in a network namespace of its own: nothing here talks to another machine.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
prefix=$(cd "$1" && pwd)
shift
[ $# -gt 0 ] || set -- v1.22.0 v2.0.1 v3.0.0 v3.0.4
only=${DQLITE_GO_ONLY:-}
scratch=$(mktemp -d)
trap 'chmod -R u+w "$scratch"; rm -rf "$scratch"' EXIT

export CGO_CFLAGS="-I$prefix/include" CGO_LDFLAGS="-L$prefix/lib" CGO_LDFLAGS_ALLOW="-Wl,-z,now"
export LD_LIBRARY_PATH="$prefix/lib${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}"

# Without this, go-sqlite3 puts a SQLite of its own, 3.35.4, in the place of the system's for libdqlite too.
export GOFLAGS="-mod=mod -tags=libsqlite3"

isolated() {
    if unshare -n ip link set lo up 2>/dev/null; then
        GOPROXY=off unshare -n sh -c 'ip link set lo up && exec "$@"' sh "$@"
    else
        "$@"
    fi
}

module_of() {
    case $1 in
    v0.* | v1.*) echo github.com/canonical/go-dqlite ;;
    *) echo "github.com/canonical/go-dqlite/${1%%.*}" ;;
    esac
}

scenario() {
    local directory=$scratch/scenario-$1 module
    module=$(module_of "$1")
    cp -r "$here/$1" "$directory"
    sed "s#github.com/canonical/go-dqlite/v3#$module#" "$here/scenario/scenario_test.go" >"$directory/scenario_test.go"
    cd "$directory"
    go mod download
    isolated go test -count=1 -timeout 5m -v .
}

# These two dial public addresses (8.8.8.8 and 1.2.3.4); they never run.
never='^(TestConnector_DialTimeout|TestConnector_ContextCanceled)$'

suites() {
    local directory=$scratch/suites-$1 module failed=0
    module=$(module_of "$1")
    cd "$here/$1"
    go mod download
    cp -r "$(go list -m -f '{{.Dir}}' "$module")" "$directory"
    chmod -R u+w "$directory"
    cd "$directory"
    go mod download
    isolated go test -count=1 -timeout 10m -p 1 -v -skip "$never" ./... >"$directory.log" 2>&1 || true
    # A panic ends a package early: then what did not run did not pass.
    if grep -E '^panic: |^FAIL.*\[build failed\]|^fatal error: |signal: ' "$directory.log"; then
        failed=1
    fi
    sed -n 's/^ *--- FAIL: \([^ /]*\) .*/\1/p' "$directory.log" | sort -u >"$directory.failed"
    if ! diff <(grep -v '^#' "$here/$1/failing.txt" | sort -u) "$directory.failed"; then
        failed=1
    fi
    echo "$1: $(grep -c '^--- PASS' "$directory.log") passed, $(wc -l <"$directory.failed") failed," \
        "$(grep -c '^--- SKIP' "$directory.log" || true) skipped"
    if [ $failed = 1 ]; then
        grep -E -A 30 '^ *--- FAIL|^panic: ' "$directory.log" | tail -200
        echo "$1: failing tests (>) are not those of $1/failing.txt (<), or a package ended early"
    fi
    return $failed
}

status=0
for release in "$@"; do
    if [ "$only" != suites ]; then
        echo "== scenario, go-dqlite $release"
        (scenario "$release") || status=1
    fi
    if [ "$only" != scenario ]; then
        echo "== suites, go-dqlite $release"
        (suites "$release") || status=1
    fi
done
exit $status
