#!/usr/bin/env bash
# Prints the path of a Thrift compiler of the version that gen-py was made with; fetches it where there is none.
#
#   PATH | .venv/thrift-compiler | the distribution's package  -->  a path on stdout
#
# With --no-install it only looks.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

version=0.17.0
kept=$PWD/.venv/thrift-compiler

fits() { [ -x "$1" ] && [ "$("$1" --version 2>/dev/null)" = "Thrift version $version" ]; }

found() {
    local path
    for path in "$(command -v thrift || true)" "$kept/usr/bin/thrift"; do
        if fits "$path"; then
            echo "$path"
            return 0
        fi
    done
    return 1
}

install_package() {
    [ "$(id -u)" = 0 ] || return 1
    apt-get install -y thrift-compiler || { apt-get update && apt-get install -y thrift-compiler; }
}

# Without root: the package's file is unpacked beside the environment, nothing is installed.
unpack_package() (
    mkdir -p "$kept" && cd "$kept" && apt-get download thrift-compiler && dpkg -x thrift-compiler_*.deb .
)

found && exit 0
if [ "${1:-}" != --no-install ] && command -v apt-get >/dev/null; then
    export DEBIAN_FRONTEND=noninteractive
    install_package >&2 || true
    found && exit 0
    unpack_package >&2 || true
    found && exit 0
fi
echo "idl/compiler.sh: no Thrift compiler $version found (thrift on PATH: $(thrift --version 2>/dev/null || echo none))." \
    "Install Debian's or Ubuntu's package thrift-compiler, or put a compiler of that version on PATH as thrift." >&2
exit 1
