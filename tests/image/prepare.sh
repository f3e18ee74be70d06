#!/bin/bash
# Installs the Debian packages that the tests of the image need, if they are missing: a container engine and mmdebstrap.
# It starts no service: the tests start their own engine.
set -euo pipefail
PATH=$PATH:/usr/sbin
missing=()
command -v dockerd >/dev/null || missing+=(docker.io)
command -v mmdebstrap >/dev/null || missing+=(mmdebstrap)
[ ${#missing[@]} -gt 0 ] || exit 0
if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
    echo "Missing: ${missing[*]} (names of Debian packages). Install them, or run this as root on Debian." >&2
    exit 1
fi
echo "Installing ${missing[*]} ..."
policy=/usr/sbin/policy-rc.d
if [ ! -e $policy ]; then
    printf '#!/bin/sh\nexit 101\n' >$policy
    chmod +x $policy
    trap 'rm -f $policy' EXIT
fi
apt-get update -qq
DEBIAN_FRONTEND=noninteractive apt-get install -qq --no-install-recommends "${missing[@]}" >/dev/null
