#!/bin/bash
# Installs what the tests of the image want of a Debian machine, if it is not there: a container engine, and mmdebstrap.
# No service is started: the tests start an engine of their own.
set -euo pipefail
PATH=$PATH:/usr/sbin
wanted=()
command -v dockerd >/dev/null || wanted+=(docker.io)
command -v mmdebstrap >/dev/null || wanted+=(mmdebstrap)
[ ${#wanted[@]} -gt 0 ] || exit 0
if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
    echo "Install ${wanted[*]} (Debian's names), and start this as root." >&2
    exit 1
fi
echo "Installing ${wanted[*]} ..."
policy=/usr/sbin/policy-rc.d
if [ ! -e $policy ]; then
    printf '#!/bin/sh\nexit 101\n' >$policy
    chmod +x $policy
    trap 'rm -f $policy' EXIT
fi
apt-get update -qq
DEBIAN_FRONTEND=noninteractive apt-get install -qq --no-install-recommends "${wanted[@]}" >/dev/null
