"""A worker with redis-py: PORT=6380 python docs/recipes/worker.py emails

It waits for a job, does it, acknowledges it with its result or gives it back as failed, and goes on. SIGTERM ends it
after the job that it has.
"""
import os
import signal
import sys
import time

import redis


def work(payload: bytes) -> bytes:
    """What the jobs are. What it returns is the result, what it raises the error."""
    if payload == b"bad":
        raise ValueError("cannot do that")
    return payload.upper()


def main(queue: str) -> None:
    client = redis.Redis(port=int(os.environ.get("PORT", "6380")))
    stopping = False

    def stop(*_):
        nonlocal stopping
        stopping = True

    signal.signal(signal.SIGTERM, stop)
    while not stopping:
        try:
            # Shorter than the client's socket_timeout, if it has one.
            job = client.execute_command("QPOP", queue, "BLOCK", 1000)
        except redis.ConnectionError as error:
            print(error, file=sys.stderr)
            time.sleep(1)
            continue
        if job is None:
            continue
        _, receipt, payload, _attempt = job
        try:
            result = work(payload)
        except Exception as error:
            client.execute_command("QNACK", queue, receipt, "ERROR", str(error))
        else:
            # 0: the lease had ended, and another worker has the job by now.
            client.execute_command("QACK", queue, receipt, "RESULT", result)


if __name__ == "__main__":
    main(sys.argv[1])
