"""What waits in Sidekiq into queues of the same names: PORT=6380 python docs/recipes/from_sidekiq.py default mailers

A job's payload stays Sidekiq's JSON, with its `class` and `args`. Jobs that wait in the named queues come in their order;
scheduled ones, and those that wait for a retry, of these queues at their dates. It goes through Millrace, before whose Redis
Sidekiq's data must be. Stop Sidekiq first. Killed half-way it may be run again: a job is pushed under its `jid` as unique key.
"""
import json
import os
import sys

import redis

HOUR = 3600 * 1000

client = redis.Redis(port=int(os.environ.get("PORT", "6380")))


def push(job, *options):
    parsed = json.loads(job)
    retries = parsed.get("retry", True)
    if isinstance(retries, int) and not isinstance(retries, bool):
        options += ("RETRIES", max(1, retries + 1))  # deliveries, the first one included
    client.execute_command("QPUSH", parsed["queue"], job, "UNIQUE", parsed["jid"], "FOR", HOUR, *options)


def move_queue(name):
    moved = 0
    while job := client.lindex("queue:" + name, -1):  # Sidekiq pushes on the left and takes from the right
        push(job)
        client.rpop("queue:" + name)
        moved += 1
    return moved


def move_dated(name, queues):
    moved = 0
    for job, seconds in client.zrange(name, 0, -1, withscores=True):
        if json.loads(job)["queue"] in queues:
            push(job, "AT", int(seconds * 1000))
            client.zrem(name, job)
            moved += 1
    return moved


queues = sys.argv[1:]
print("waiting:", sum(map(move_queue, queues)))
print("later:", sum(move_dated(name, queues) for name in ("schedule", "retry")))
