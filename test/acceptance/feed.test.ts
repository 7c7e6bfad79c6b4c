import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { createDatabase } from '../support/database.ts';
import { createRecorder } from '../support/feed.ts';
import { type Server, startServer } from '../support/server.ts';
import { followEvents, type Stream, talk } from './clients.ts';

let database: Awaited<ReturnType<typeof createDatabase>>;
let a: Server;
let b: Server;
const psql = createRecorder(() => database.url);

before(async () => {
  database = await createDatabase();
  a = await startServer({ url: database.url });
  b = await startServer({ url: database.url });
});
after(async () => {
  await psql.close();
  await Promise.all([a?.stop(), b?.stop()]);
  await database?.drop();
});

const attempts = (stream: Stream) => stream.events.map(({ data }) => data.attempt);
const numbers = (count: number) => Array.from({ length: count }, (_, n) => n + 1);

test('feeds on two servers show the same events under the same ids, in the same order', async () => {
  await talk(b).register('both');
  const ids = await talk(b).puts('both', 20);
  const feeds = await Promise.all([followEvents(a, 'queue=both'), followEvents(b, 'queue=both')]);
  for (let n = 1; n <= 50; n++) await psql.record(ids, 'started', { attempt: n });
  for (const feed of feeds) await feed.atLeast(1000);
  assert.deepEqual(feeds[0]?.events, feeds[1]?.events);
  assert.deepEqual(
    attempts(feeds[0] as Stream),
    numbers(50).flatMap((n) => Array(20).fill(n)),
  );
  for (const feed of feeds) feed.hangUp();
});

test('a feed whose server is killed with kill -9 goes on at another: none missed, none twice', async () => {
  const victim = await startServer({ url: database.url });
  await talk(a).register('q');
  const [id] = (await talk(a).puts('q', 1)) as [string];
  const feed = await followEvents(victim, `task_id=${id}`);
  const count = 2000;
  const recording = (async () => {
    for (let n = 1; n <= count; n++) await psql.record([id], 'progress', { attempt: n });
  })();
  await feed.atLeast(200);
  await victim.kill('SIGKILL');
  await feed.ended;
  const resumed = await followEvents(b, `task_id=${id}`, feed.events.at(-1)?.id);
  await recording;
  await resumed.atLeast(count - feed.events.length);
  assert.ok(feed.events.length < count, 'it was killed in the middle');
  assert.deepEqual([...attempts(feed), ...attempts(resumed)], numbers(count));
  resumed.hangUp();
});
