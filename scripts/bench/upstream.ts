import { createServer, request } from 'node:http';
import type { AddressInfo } from 'node:net';
import { LLMock } from '@copilotkit/aimock';

// A model server that is not ours (a mock from npm that speaks OpenAI's API), with faults by chance, behind a gate that lets PLACES requests in at a time
// and answers 429 to all others. Each answer holds the last message, so that a mixed-up one is seen.
const PLACES = Number(process.env.PLACES ?? 32);
const LATENCY_MS = Number(process.env.LATENCY_MS ?? 100);
const FAULTS = Number(process.env.FAULTS ?? 0);

const mock = new LLMock({
  port: 0,
  logLevel: 'silent',
  journalMaxEntries: 1,
  chaos: {
    latencyMs: LATENCY_MS,
    dropRate: FAULTS,
    malformedRate: FAULTS,
    disconnectRate: FAULTS,
    rateLimitRate: FAULTS,
  },
});
mock.onMessage(/.*/, ({ messages }) => ({ content: `echo: ${messages.at(-1)?.content}` }));
await mock.start();
const { hostname, port } = new URL(mock.url);

let inside = 0;
let refused = 0;
let most = 0;
const gate = createServer((req, res) => {
  if (req.url === '/gate') {
    res.end(JSON.stringify({ refused, most }));
    refused = most = 0;
    return;
  }
  if (inside >= PLACES) {
    refused++;
    req.resume();
    res.writeHead(429, { 'content-type': 'application/json' }).end('{"error":{"message":"too many requests"}}');
    return;
  }
  inside++;
  most = Math.max(most, inside);
  const onward = request({ hostname, port, path: req.url, method: req.method, headers: req.headers }, (reply) => {
    res.writeHead(reply.statusCode ?? 502, reply.headers);
    reply.on('error', () => res.destroy());
    reply.pipe(res);
  });
  onward.on('error', () => res.destroy());
  res.once('close', () => {
    inside--;
    onward.destroy();
  });
  req.pipe(onward);
});
gate.listen(0, '127.0.0.1', () => console.log(`listening on http://127.0.0.1:${(gate.address() as AddressInfo).port}`));
process.on('SIGTERM', () => process.exit(0));
