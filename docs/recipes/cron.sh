#!/usr/bin/env bash
# Jobs that come again and again: PORT=6380 docs/recipes/cron.sh
# Each tick pushes one job, however many proxies run and whichever of them is restarted. No client needs to stay.
set -euo pipefail
cli() { redis-cli -e -p "${PORT:-6380}" --raw "$@"; }

# Fields as cron has them. UNIQUE: while the job of the last tick is not done, another one is not pushed.
cli QCRON ADD reports nightly '30 3 * * *' 'all of it' TZ Europe/Berlin UNIQUE nightly >/dev/null

# Six fields begin with the seconds. TTL: what nobody has taken by the next tick is of no use any more.
cli QCRON ADD reports pulse '* * * * * *' 'still there?' TTL 1000 >/dev/null
cli QPOP reports BLOCK 10000 NOACK | sed -n 3p

cli QCRON DEL reports pulse
cli QCRON LIST reports | sed -n 2p
