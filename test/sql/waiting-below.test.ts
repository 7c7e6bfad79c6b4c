import assert from 'node:assert/strict';
import { test } from 'node:test';
import { type Item, testDatabase } from '../support/sql.ts';

const database = await testDatabase();
const db = await database.open();

async function queueWith(items: Item[]) {
  const name = database.name();
  await db.register(name);
  return { name, put: await db.put(items.map((item) => ({ queue: name, ...item }))) };
}
const below = (places: [lane: string, rank: number, id: bigint][]) =>
  db.rows(
    'select * from tasklane.waiting_below($1, $2, $3)',
    [0, 1, 2].map((n) => places.map((place) => place[n])),
  );

test('of each lane the first task before its place is found, and none at or after it', async () => {
  const { name, put } = await queueWith([
    { priority: 5 },
    { priority: 5 },
    { priority: 10 },
    { priority: 5, level: 3 },
  ]);
  const [first, second, urgent, elsewhere] = put.map(({ id }) => id) as [bigint, bigint, bigint, bigint];
  assert.deepEqual(
    await below([
      [`${name}:0`, 95, second],
      [`${name}:3`, 95, elsewhere],
    ]),
    [{ lane: `${name}:0`, rank: 90, id: urgent }],
  );
  assert.deepEqual(
    await below([
      [`${name}:0`, 90, urgent],
      [`${name}:3`, 95, elsewhere + 1n],
    ]),
    [{ lane: `${name}:3`, rank: 95, id: elsewhere }],
  );
  await db.cancel([urgent]);
  assert.deepEqual(await below([[`${name}:0`, 95, second]]), [{ lane: `${name}:0`, rank: 95, id: first }]);
});

test('what has expired is passed over', async () => {
  const { name, put } = await queueWith([{}, {}, {}]);
  const [first, second, third] = put.map(({ id }) => id) as [bigint, bigint, bigint];
  await db.run("update tasklane.ready set expires_at = now() - interval '1 second' where id = $1", [first]);
  assert.deepEqual(await below([[`${name}:0`, 95, third]]), [{ lane: `${name}:0`, rank: 95, id: second }]);
});

test('a lane that was never put to, and a queue that is not there, have nothing', async () => {
  const { name } = await queueWith([]);
  assert.deepEqual(
    await below([
      [`${name}:7`, 95, 10n],
      ['nowhere:0', 95, 10n],
    ]),
    [],
  );
});
