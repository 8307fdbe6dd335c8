// ioredis with its default settings: push, pop, acknowledge, and a plain command.
import assert from "node:assert/strict";
import { createRequire } from "node:module";

const [port, modules] = process.argv.slice(2);
const Redis = createRequire(modules + "/")("ioredis");

const client = new Redis({ port: Number(port) });
client.on("error", (error) => { throw error; });
await client.set("greeting", "hello");
assert.equal(await client.get("greeting"), "hello");
const id = await client.call("QPUSH", "ioredis", "payload");
const [queue, receipt, payload, attempt] = await client.call("QPOP", "ioredis", "BLOCK", "5000");
assert.deepEqual([queue, payload, attempt], ["ioredis", "payload", 1]);
assert.ok(receipt.startsWith(id));
assert.equal(await client.call("QACK", "ioredis", receipt), 1);
assert.equal(await client.call("QPOP", "ioredis"), null);
const pipeline = client.pipeline();
for (let n = 0; n < 100; n++) pipeline.call("QPUSH", "ioredis", String(n));
assert.equal(new Set((await pipeline.exec()).map(([, id]) => id)).size, 100);
await client.quit();
console.log("ok");
