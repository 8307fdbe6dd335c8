#!/usr/bin/env bash
# Asking for something and waiting for what comes of it: PORT=6380 docs/recipes/result.sh emails hello
# A worker (any of these recipes) must run. Nothing if it failed for good, or takes longer than WAIT milliseconds.
set -euo pipefail
cli() { redis-cli -e -p "${PORT:-6380}" --raw "$@"; }

id=$(cli QPUSH "$1" "$2" RETRIES 3)
cli QRESULT "$1" "$id" BLOCK "${WAIT:-10000}"
