#!/bin/sh
# Checks everything: lint, types, dead code, tests. Works as the first command on a fresh clone.
set -eu
cd "$(dirname "$0")/.."
. scripts/install.sh
# What only reads runs side by side.
npm run --silent lint & lint=$!
npm run --silent types & types=$!
npm run --silent dead-code
wait $lint
wait $types
npm test
