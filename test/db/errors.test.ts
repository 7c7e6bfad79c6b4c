import assert from 'node:assert/strict';
import { once } from 'node:events';
import { type AddressInfo, connect, createServer, type Socket } from 'node:net';
import { test } from 'node:test';
import { openDatabase } from '../../server/db/open.ts';
import { readLaneStats } from '../../server/db/queues.ts';
import { createDatabase } from '../support/database.ts';

test('a database that takes a connection and never answers is unavailable for now, not an error of ours', async (t) => {
  const database = await createDatabase();
  t.after(database.drop);
  const real = new URL(database.url);
  const open = new Set<Socket>();
  let silent = false;
  const relay = createServer((socket) => {
    open.add(socket.on('error', () => undefined));
    if (silent) return;
    const onward = connect(Number(real.port), real.hostname).on('error', () => undefined);
    socket.pipe(onward).pipe(socket);
  }).listen(0, '127.0.0.1');
  await once(relay, 'listening');
  const close = () => {
    for (const socket of open) socket.destroy();
  };
  t.after(() => {
    close();
    relay.close();
  });

  const db = await openDatabase(
    Object.assign(new URL(real), { port: `${(relay.address() as AddressInfo).port}` }).href,
    { maxConnections: 1 },
  );
  t.after(db.close);
  assert.deepEqual(await readLaneStats(db), []);
  silent = true;
  close();
  // The first call notices that its connection is gone; the next one makes another.
  await assert.rejects(readLaneStats(db), { status: 503 });
  await assert.rejects(readLaneStats(db), { status: 503 });
});
