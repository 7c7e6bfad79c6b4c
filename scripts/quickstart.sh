#!/bin/sh
# Starts Tasklane on its own Postgres, sends this project's documents through it, and leaves it running; --exit ends it
# all, with status 0 when every answer came back right. Works as the first command on a fresh clone.
set -eu
cd "$(dirname "$0")/.."
. scripts/install.sh
exec node scripts/quickstart/main.ts "$@"
