#!/bin/sh
# Unpacks Debian's C libdqlite into a directory, without installing it, and prints what DQLITE_C_LIBRARY_DIR has to be:
#   DQLITE_C_LIBRARY_DIR=$(sh ffi-tests/c-library.sh DIR) cargo test -p ffi-tests
# Needs Debian or a relative of it, the network, and libuv1 and libsqlite3-0 installed.
set -eu
mkdir -p "$1"
cd "$1"
apt-get download libdqlite0 libraft2 >&2
for package in libdqlite0_*.deb libraft2_*.deb; do
    dpkg -x "$package" .
done
dirname "$PWD"/usr/lib/*/libdqlite.so.0
