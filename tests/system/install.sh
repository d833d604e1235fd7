#!/bin/sh
# Installs Debian packages for the system tests, without starting the services that come with them.
set -eu
if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
    echo "The system tests need: $*. Install them with your package manager, or run this as root on Debian." >&2
    exit 1
fi
echo "Installing for the system tests: $*"
export DEBIAN_FRONTEND=noninteractive RUNLEVEL=1
apt-get update -qq
apt-get install -y -qq --no-install-recommends -o DPkg::Lock::Timeout=300 "$@" >/dev/null
