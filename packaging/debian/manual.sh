#!/bin/sh
# One page of packaging/man as roff on standard output: manual.sh NAME.SECTION.md
# The page's first line is "# NAME(SECTION)"; its sections start with "## ".
set -eu
# The first line tells man that the page has tables, the second that lines are not stretched: paths in narrow columns.
printf '%s\n' "'\\\" t" '.ds AD l'
page=$(basename "$1" .md)
sed -e 1d -e 's/^##\(#*\) /#\1 /' "$1" |
    lowdown -s -Tman -M "title=${page%.*}" -M "section=${page##*.}" -M "source=tee-agent" -M "date=$(date -u -d "@${SOURCE_DATE_EPOCH:-0}" +%F)" |
    sed -e 's/^\.TS.*/.ad l\n&/'
