import assert from 'node:assert/strict';
import { once } from 'node:events';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { test } from 'node:test';
import express from 'express';
import { openSse } from '../../server/http/sse.ts';

test('a slow reader leaves no listeners behind, however often it is waited for', async () => {
  const RECORDS = 50;
  const listeners: number[] = [];
  const app = express().get('/', async (_req, res) => {
    const sse = openSse(res, {});
    for (let n = 0; n < RECORDS; n++) {
      await sse.write(`data: ${'x'.repeat(1 << 18)}\n\n`);
      listeners.push(res.listenerCount('close') + res.listenerCount('drain') + res.listenerCount('error'));
    }
    sse.end();
  });
  const server = createServer(app).listen(0, '127.0.0.1');
  await once(server, 'listening');
  const { port } = server.address() as AddressInfo;
  const text = await (await fetch(`http://127.0.0.1:${port}/`)).text();
  server.close();
  assert.equal(text.length, RECORDS * ((1 << 18) + 8));
  assert.equal(new Set(listeners).size, 1, `${listeners}`);
});
