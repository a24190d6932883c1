#!/usr/bin/env bash
# The programs that the files here are for, so that tests can run them: installs Debian's packages where that is possible.
#
#   nginx, haproxy, supervisord, ab on PATH?  --no, root, apt-get-->  the packages  -->  names of those still missing
set -euo pipefail

missing() {
    local name
    for name in nginx haproxy supervisord ab; do
        PATH=$PATH:/usr/sbin:/sbin command -v "$name" >/dev/null || echo "$name"
    done
}

[ -z "$(missing)" ] && exit 0
if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    export DEBIAN_FRONTEND=noninteractive
    packages=(nginx-light haproxy supervisor apache2-utils)
    apt-get install -y --no-install-recommends "${packages[@]}" >&2 \
        || { apt-get update >&2 && apt-get install -y --no-install-recommends "${packages[@]}" >&2; } || true
fi
left=$(missing | tr '\n' ' ')
[ -z "$left" ] || echo "deploy/programs.sh: not here: ${left% }; the tests that need them will be skipped" >&2
