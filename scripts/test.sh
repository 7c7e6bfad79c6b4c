#!/bin/sh
# Checks everything: lint, types, dead code, tests. Works as the first command on a fresh clone.
set -eu
cd "$(dirname "$0")/.."
. scripts/install.sh
npm run check
