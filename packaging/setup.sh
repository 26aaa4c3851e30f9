#!/bin/sh
# Installs what a target needs: Debian packages (as root), then the virtual environment. Quick when all is there.
#   sh packaging/setup.sh demo|test|bench|fuzz|deb
set -eu
cd "$(dirname "$0")/.."
need="python3 python3-venv cryptsetup-bin fuse3 curl ca-certificates"
case "${1:-demo}" in
    demo) ;;
    test) need="$need git openssh-client openssl shellcheck strace debhelper dh-python lowdown lintian man-db systemd mmdebstrap e2fsprogs zstd cpio" ;;
    fuzz) ;;
    bench) need="$need gcc libc6-dev libp11-kit-dev openssh-client openssl softhsm2 debhelper dh-python lowdown mmdebstrap e2fsprogs zstd" ;;
    deb) need="debhelper dh-python lowdown" ;;
    *) echo "usage: setup.sh demo|test|bench|fuzz|deb" >&2; exit 64 ;;
esac

missing=
for package in $need; do
    state=$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null || true)
    [ "$state" = installed ] || missing="$missing $package"
done
if [ -n "$missing" ]; then
    if [ "$(id -u)" -ne 0 ]; then
        echo "make: these Debian packages are missing:$missing" >&2
        echo "make: run this, then make again:  sudo apt-get install$missing" >&2
        exit 69
    fi
    echo "installing:$missing"
    apt-get update -qq
    # shellcheck disable=SC2086 # a list of words
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $missing >/dev/null
fi

if [ "${1:-demo}" = deb ]; then
    exit 0
fi

stamp=.venv/.ready
wanted=$(cat pyproject.toml packaging/requirements-dev.txt "$0" | sha256sum | cut -c1-64)
wanted="$wanted $(pwd) $(/usr/bin/python3 -V)"
if [ "$(cat "$stamp" 2>/dev/null || true)" != "$wanted" ]; then
    echo "making .venv"
    rm -rf .venv
    /usr/bin/python3 -m venv .venv
    .venv/bin/python -m pip install --quiet --disable-pip-version-check -r packaging/requirements-dev.txt
    .venv/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
    echo "$wanted" >"$stamp"
fi

if [ "${1:-demo}" = fuzz ] && ! .venv/bin/python -c 'import atheris' 2>/dev/null; then
    .venv/bin/python -m pip install --quiet --disable-pip-version-check -r packaging/requirements-fuzz.txt
fi
