// What waits in a BullMQ queue into a queue of Millrace: PORT=6380 REDIS_PORT=6379 node docs/recipes/from_bullmq.js emails
// BullMQ's data are read by BullMQ itself, straight from Redis. The payload is the job's data as JSON, its name becomes META.
// Stop BullMQ's workers first. Killed half-way it may be run again: a job is pushed under BullMQ's id as unique key.
const Redis = require("ioredis");
const { Queue } = require("bullmq");

const BATCH = 100;
const HOUR = 3600 * 1000;

// BullMQ counts from 1, the most urgent, and 0 is none.
function priority(number) {
  if (!number) return "normal";
  return number <= 10 ? "urgent" : "high";
}

async function push(client, queue, job) {
  const options = ["META", "name", job.name, "UNIQUE", `bullmq:${job.id}`, "FOR", HOUR];
  options.push("PRIORITY", priority(job.opts.priority));
  options.push("RETRIES", Math.max(1, job.opts.attempts || 1));
  if (job.opts.delay) options.push("AT", job.timestamp + job.opts.delay);
  await client.call("QPUSH", queue, JSON.stringify(job.data), ...options);
}

async function main(name) {
  const client = new Redis({ port: Number(process.env.PORT || 6380) });
  const source = new Queue(name, { connection: { port: Number(process.env.REDIS_PORT || 6379) } });
  let moved = 0;
  for (;;) {
    const jobs = await source.getJobs(["prioritized", "wait", "paused", "delayed"], 0, BATCH - 1, true); // the oldest first
    if (jobs.length === 0) break;
    for (const job of jobs) {
      await push(client, name, job);
      await job.remove(); // it is safe in the queue
      moved += 1;
    }
  }
  console.log(moved);
  await source.close();
  await client.quit();
}

main(process.argv[2]);
