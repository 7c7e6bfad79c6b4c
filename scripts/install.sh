# Sourced from the repository's root: installs the locked packages when they are missing or out of date,
# then puts the pinned Node first on PATH, since the machine's own may be too old.
if [ ! -e node_modules/.package-lock.json ] || [ package-lock.json -nt node_modules/.package-lock.json ]; then
  if ! command -v npm >/dev/null; then
    echo "npm is needed to install Tasklane's packages: see https://nodejs.org/en/download" >&2
    exit 1
  fi
  npm ci --no-audit --no-fund --loglevel=error >&2
fi
PATH="$PWD/node_modules/.bin:$PATH"
export PATH
