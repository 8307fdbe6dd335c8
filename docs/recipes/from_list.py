"""Jobs out of a Redis list into a queue: PORT=6380 python docs/recipes/from_list.py list queue [left|right]

`left`: consumers took them with LPOP (the default), `right`: with RPOP or BRPOP. It goes through Millrace, before whose Redis the
list must be. Stop the consumers first; producers may go on. Run it once: killed half-way it may be run again, and at most
one hundred jobs are then in the queue twice.
"""
import os
import sys

import redis

BATCH = 100

client = redis.Redis(port=int(os.environ.get("PORT", "6380")))
source, queue = sys.argv[1:3]
from_right = sys.argv[3:] == ["right"]
moved = 0
while True:
    if from_right:
        jobs = client.lrange(source, -BATCH, -1)[::-1]
    else:
        jobs = client.lrange(source, 0, BATCH - 1)
    if not jobs:
        break
    client.execute_command("QMPUSH", queue, len(jobs), *jobs)
    # They are safe in the queue: now they may go.
    if from_right:
        client.ltrim(source, 0, -len(jobs) - 1)
    else:
        client.ltrim(source, len(jobs), -1)
    moved += len(jobs)
print(moved)
