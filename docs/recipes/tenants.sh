#!/usr/bin/env bash
# Tenants that share a queue and its workers: PORT=6380 docs/recipes/tenants.sh
# The tenant is the job's GROUP. Groups that have work take turns, so a tenant with a thousand jobs delays another one's by one.
set -euo pipefail
cli() { redis-cli -e -p "${PORT:-6380}" --raw "$@"; }

# A job of each tenant at a time (the default), and no more than 100 a second, so that none takes all that the rest of
# the system can bear.
cli QCONFIG SET reports group_concurrency 1 group_rate 100/s >/dev/null

for n in 1 2 3 4; do
    cli QPUSH reports "busy: report $n" GROUP busy >/dev/null
done
cli QPUSH reports 'small: its only report' GROUP small >/dev/null

# Two workers at a time: one job of each tenant, though four of `busy` were there first.
cli QPOP reports COUNT 2 NOACK | grep ': '
