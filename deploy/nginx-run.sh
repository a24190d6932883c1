#!/bin/sh
# Starts nginx in the foreground, under a supervisor.
#
#   what an nginx that was killed left behind --QUIT--> gone;  nginx -c FILE --> takes the port
#
# Workers outlive a master that was killed and keep the port. They are in its process group, and its pid is in the pid
# file: they finish what they have in hand and go.
set -eu
config=$1
pid_file=$(sed -n 's/^pid \(.*\);$/\1/p' "$config")
old=$(cat "$pid_file" 2>/dev/null || true)
# Group 0 would be this shell's own, and -1 everybody.
if [ "${old:-0}" -gt 1 ] 2>/dev/null && ! kill -0 "$old" 2>/dev/null; then
    kill -s QUIT -- "-$old" 2>/dev/null || true
fi
exec nginx -c "$config" -e stderr -g 'daemon off;'
