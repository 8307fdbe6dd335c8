"""redis-py with its default settings, in both protocols: push, pop, acknowledge, and a plain command."""
import sys

import redis

port = int(sys.argv[1])
for protocol in (2, 3):
    client = redis.Redis(port=port, protocol=protocol)
    assert client.ping()
    assert client.set("greeting", "hello") and client.get("greeting") == b"hello"
    job_id = client.execute_command("QPUSH", "python", "payload")
    queue, receipt, payload, attempt = client.execute_command("QPOP", "python", "BLOCK", 5000)
    assert (queue, payload, attempt) == (b"python", b"payload", 1), (queue, payload, attempt)
    assert receipt.startswith(job_id)
    assert client.execute_command("QACK", "python", receipt) == 1
    assert client.execute_command("QPOP", "python") is None

    pipeline = client.pipeline(transaction=False)
    for n in range(100):
        pipeline.execute_command("QPUSH", "python", str(n))
    assert len(set(pipeline.execute())) == 100
    assert len(client.execute_command("QPOP", "python", "COUNT", 100)) == 100

    try:
        client.execute_command("QPUSH", "python", "payload", "PRIORTY", "high")
        raise AssertionError("an unknown option was accepted")
    except redis.ResponseError as error:
        assert "PRIORTY" in str(error), error
    client.close()
print("ok")
