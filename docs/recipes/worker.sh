#!/usr/bin/env bash
# A worker in bash and redis-cli (7.0 or newer): PORT=6380 docs/recipes/worker.sh emails
# It waits for a job, does it, acknowledges it with its result or gives it back as failed, and goes on. SIGTERM ends it
# after the job that it has. Bash knows no byte 0 and cuts newlines off the end: for payloads that are text.
set -euo pipefail
queue=${1:?usage: worker.sh queue}

cli() { redis-cli -e -p "${PORT:-6380}" --raw "$@"; } # -e: an error is an exit code

# What the jobs are: the payload is its argument, what it prints is the result, and if it fails, what it complains of the error.
work() {
    if [[ $1 == bad ]]; then
        echo "cannot do that" >&2
        return 1
    fi
    tr '[:lower:]' '[:upper:]' <<<"$1"
}

complaint=$(mktemp)
trap 'rm -f "$complaint"' EXIT
trap 'stopping=1' TERM INT

while [[ -z ${stopping:-} ]]; do
    # Queue, receipt, payload and attempt, each on its line; the payload may have several.
    if ! reply=$(cli QPOP "$queue" BLOCK 1000); then
        sleep 1 # no Millrace, or it refuses: it has said why
        continue
    fi
    [[ -n $reply ]] || continue # nobody pushed in that time
    mapfile -t job <<<"$reply"
    receipt=${job[1]}
    payload=$(printf '%s\n' "${job[@]:2:${#job[@]}-3}")
    if result=$(work "$payload" 2>"$complaint"); then
        cli QACK "$queue" "$receipt" RESULT "$result" >/dev/null
    else
        cli QNACK "$queue" "$receipt" ERROR "$(<"$complaint")" >/dev/null
    fi
done
