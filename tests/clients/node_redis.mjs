// node-redis with its default settings, in both protocols: push, pop, acknowledge, and a plain command.
import assert from "node:assert/strict";
import { createRequire } from "node:module";

const [port, modules] = process.argv.slice(2);
const { createClient } = createRequire(modules + "/")("redis");

for (const RESP of [2, 3]) {
  const client = createClient({ socket: { port: Number(port) }, RESP });
  client.on("error", (error) => { throw error; });
  await client.connect();
  await client.set("greeting", "hello");
  assert.equal(await client.get("greeting"), "hello");
  const id = await client.sendCommand(["QPUSH", "node", "payload"]);
  const [queue, receipt, payload, attempt] = await client.sendCommand(["QPOP", "node", "BLOCK", "5000"]);
  assert.deepEqual([queue, payload, attempt], ["node", "payload", 1]);
  assert.ok(receipt.startsWith(id));
  assert.equal(await client.sendCommand(["QACK", "node", receipt]), 1);
  assert.equal(await client.sendCommand(["QPOP", "node"]), null);
  await client.close();
}
console.log("ok");
