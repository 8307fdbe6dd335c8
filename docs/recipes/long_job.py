"""A job that takes longer than its lease: PORT=6380 python docs/recipes/long_job.py

A short lease brings the job of a dead worker back soon; a worker that lives extends it, three times in each lease. One
that finds its lease lost stops, as another worker has the job by now.
"""
import os
import threading
import time

import redis

LEASE = 1000  # ms; in earnest rather 30000

client = redis.Redis(port=int(os.environ.get("PORT", "6380")))


class Lease:
    """Keeps a job as long as the block lasts. `lost` says that it was not possible."""

    def __init__(self, queue, receipt):
        self.queue, self.receipt = queue, receipt
        self.lost = False
        self.over = threading.Event()
        self.thread = threading.Thread(target=self.extend, daemon=True)

    def extend(self):
        while not self.over.wait(LEASE / 3 / 1000):
            if client.execute_command("QEXTEND", self.queue, LEASE, self.receipt) == 0:
                self.lost = True
                return

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.over.set()
        self.thread.join()


client.execute_command("QPUSH", "films", "cut the film")
queue, receipt, payload, attempt = client.execute_command("QPOP", "films", "LEASE", LEASE)
with Lease(queue, receipt) as lease:
    for step in range(20):
        if lease.lost:
            raise SystemExit("another worker has the job")
        time.sleep(0.1)  # the work
print("acknowledged:", client.execute_command("QACK", queue, receipt))
