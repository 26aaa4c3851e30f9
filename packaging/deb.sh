#!/bin/sh
# Builds build/tee-agent_VERSION_all.deb and build/tee-agent-initramfs_VERSION_all.deb. Needs no network and no
# repository: the same tree gives the same bytes. Times are the changelog's.
set -eu
cd "$(dirname "$0")/.."
umask 022
mkdir -p build
work=$(mktemp -d build/deb.XXXXXX)
trap 'rm -rf "$work"' EXIT
mkdir "$work/source"
tar -c --exclude=__pycache__ agent snp tdx initramfs systemd packaging | tar -x -C "$work/source" --no-same-owner
ln -s packaging/debian "$work/source/debian"
unset SOURCE_DATE_EPOCH
if ! (cd "$work/source" && LC_ALL=C TZ=UTC dpkg-buildpackage --build=binary --no-sign --no-check-builddeps) >"$work/log" 2>&1; then
    cat "$work/log" >&2
    exit 70
fi
for package in "$work"/*.deb; do
    mv "$package" build/
    echo "build/$(basename "$package")"
done
