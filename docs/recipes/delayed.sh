#!/usr/bin/env bash
# Jobs for later: PORT=6380 docs/recipes/delayed.sh
set -euo pipefail
cli() { redis-cli -e -p "${PORT:-6380}" --raw "$@"; }

# In so many milliseconds, or at a date; a date that is over is now.
cli QPUSH reminders 'in a moment' DELAY 300 >/dev/null
tomorrow=$(cli QPUSH reminders 'tomorrow' AT $((($(date +%s) + 86400) * 1000)))

# A worker that waits is woken when one falls due: nobody asks again and again.
cli QPOP reminders BLOCK 10000 NOACK | sed -n 3p

# Not tomorrow, but now; or not at all.
cli QPROMOTE reminders "$tomorrow"
cli QPOP reminders NOACK | sed -n 3p
never=$(cli QPUSH reminders 'never' DELAY 60000)
cli QDEL reminders "$never"
