// A worker with ioredis: PORT=6380 node docs/recipes/worker.js emails
// It waits for a job, does it, acknowledges it with its result or gives it back as failed, and goes on. SIGTERM ends it
// after the job that it has.
const Redis = require("ioredis");

// What the jobs are. What it returns is the result, what it throws the error.
async function work(payload) {
  if (payload.toString() === "bad") throw new Error("cannot do that");
  return payload.toString().toUpperCase();
}

async function main(queue) {
  const client = new Redis({ port: Number(process.env.PORT || 6380) }); // it connects anew by itself
  client.on("error", (error) => console.error(error.message));
  let stopping = false;
  process.once("SIGTERM", () => { stopping = true; });
  while (!stopping) {
    const job = await client.callBuffer("QPOP", queue, "BLOCK", 1000); // payloads are bytes: not `call`
    if (job === null) continue;
    const [, receipt, payload] = job;
    let result;
    try {
      result = await work(payload);
    } catch (error) {
      await client.call("QNACK", queue, receipt, "ERROR", error.message);
      continue;
    }
    // 0: the lease had ended, and another worker has the job by now.
    await client.call("QACK", queue, receipt, "RESULT", result);
  }
  await client.quit();
}

main(process.argv[2]);
