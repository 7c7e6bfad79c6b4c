import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { createDatabase } from '../support/database.ts';
import { type Server, startServer } from '../support/server.ts';
import { askStream, progress, readStream, talk, until } from './clients.ts';

let database: Awaited<ReturnType<typeof createDatabase>>;
let a: Server;
let b: Server;

before(async () => {
  database = await createDatabase();
  a = await startServer({ url: database.url });
  b = await startServer({ url: database.url });
});
after(async () => {
  await Promise.all([a?.stop(), b?.stop()]);
  await database?.drop();
});

test('a stream without readers is cancelled, and one that is read on, here or on another server, is not', async () => {
  await talk(a).register('q');
  const streams = await Promise.all(Array.from({ length: 4 }, () => askStream(a, 'q')));
  const [here, there, both, nowhere] = streams as [(typeof streams)[0], ...typeof streams];
  await talk(b).take('q', { size: 4 });
  for (const stream of streams) {
    await talk(b).emit([progress(stream.taskId, 1)]);
    await stream.atLeast(1);
  }
  const further = await readStream(b, both?.taskId as string);
  for (const stream of [here, there]) stream?.hangUp();
  const resumed = [await readStream(a, here.taskId, '1'), await readStream(b, there?.taskId as string, '1'), further];
  both?.hangUp();
  // The last to be left is the last to be cancelled.
  nowhere?.hangUp();
  await until('the stream without readers is cancelled', async () => {
    return (await talk(a).task(nowhere?.taskId as string)).status === 'cancelled';
  });
  for (const stream of resumed) {
    await talk(a).emit([progress(stream.taskId, 2)]);
    await talk(b).complete(stream.taskId, { still: 'here' });
    await stream.ended;
    assert.deepEqual(
      stream.events.filter(({ id }) => id !== '1').map(({ event, data }) => (event === 'chunk' ? data : data.body)),
      [2, { still: 'here' }],
    );
  }
});
