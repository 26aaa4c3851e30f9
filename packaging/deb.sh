#!/bin/sh
# Builds tee-agent, tee-agent-initramfs and python3-tee-agent-client (_VERSION_all.deb) in a folder: deb.sh [FOLDER], default build.
# Needs no network and no repository: the same tree gives the same bytes. Times are the changelog's.
set -eu
folder=${1:-$(dirname "$0")/../build}
umask 022
mkdir -p "$folder"
folder=$(cd "$folder" && pwd)
cd "$(dirname "$0")/.."
work=$(mktemp -d "$folder/deb.XXXXXX")
trap 'rm -rf "$work"' EXIT
mkdir "$work/source"
tar -c --exclude=__pycache__ agent snp tdx initramfs systemd packaging | tar -x -C "$work/source" --no-same-owner
ln -s packaging/debian "$work/source/debian"
unset SOURCE_DATE_EPOCH
build() {
    cd "$work/source"
    LC_ALL=C TZ=UTC dpkg-buildpackage --build=binary --no-sign --no-check-builddeps
}
if ! (build) >"$work/log" 2>&1; then
    cat "$work/log" >&2
    exit 70
fi
for package in "$work"/*.deb; do
    mv "$package" "$folder/"
    echo "$folder/$(basename "$package")"
done
