#!/bin/sh
# Draws the pictures of the README anew: sh docs/screens.sh [WORKSPACE]; the workspace is one that `optsweep quickstart` has filled.
# The published study is imported into a workspace of its own, so that its picture needs no run.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
workspace=${1:-workspace}
optsweep=${OPTSWEEP:-optsweep}
reference=$(mktemp -d)
trap 'rm -rf "$reference"' EXIT
"$optsweep" import reference -w "$reference" >/dev/null
for screen in sweep runs compare run hosts; do
  "$optsweep" tui --screenshot "$screen" --size 120x36 --study quickstart --out "$here/$screen.svg" -w "$workspace"
done
"$optsweep" tui --screenshot compare --size 120x40 --study reference --out "$here/reference.svg" -w "$reference"
"$optsweep" tui --screenshot sql --size 120x30 --study reference --out "$here/sql.svg" -w "$reference"
