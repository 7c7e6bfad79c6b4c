import assert from 'node:assert/strict';
import { test } from 'node:test';
import { code, testDatabase, untilBlocked } from '../support/sql.ts';

const database = await testDatabase();
const [db, other, watcher] = [await database.open(), await database.open(), await database.open()];

test('puts of a tenant with a limit wait for each other until the commit, so that the limit is exact', async () => {
  const name = database.name();
  await db.register(name);
  await db.run(`select tasklane.set_tenant('default', '{"max_in_flight": 1}')`);
  for (const end of ['rollback', 'commit']) {
    await db.run('begin');
    await db.put([{ queue: name }]);
    const second = other.tryPut([{ queue: name }]);
    await untilBlocked(watcher, other);
    await db.run(end);
    const [row] = await second;
    assert.equal(row?.code ?? null, end === 'commit' ? 'TL429' : null);
    if (end === 'rollback') await db.cancel([row?.id as bigint]);
  }
  await db.run(`select tasklane.set_tenant('default', '{"max_in_flight": null}')`);
  await assert.doesNotReject(db.put([{ queue: name }]));
});

test('a group that is refused spends no room, and the groups after it in the same call get it', async () => {
  const name = database.name();
  await db.register(name, '/v1/chat/completions', { max_depth: 3 });
  const groups = [1, 1, 2, 2, 3, 4];
  const rows = await db.tryPut(groups.map((group) => ({ queue: name, group })));
  assert.deepEqual(
    rows.map((row) => row.code),
    [null, null, 'TL429', null, null, 'TL429'],
  );
  assert.deepEqual(
    rows.map((row) => row.id !== null),
    [true, true, false, false, true, false],
  );
});

test('put in psql raises TL429 over a limit', async () => {
  const name = database.name();
  await db.register(name, '/v1/chat/completions', { max_depth: 1 });
  await db.run(`select tasklane.put($1, '{}')`, [name]);
  await assert.rejects(db.run(`select tasklane.put($1, '{}')`, [name]), code('TL429'));
});

test("a tenant's counts are exact at every moment while they are folded", async () => {
  const name = database.name();
  await db.register(name);
  const { rows } = await db.client.query(
    `select in_flight::int as n from tasklane.tenant_stats where tenant = 'default'`,
  );
  const before = rows[0].n;
  let folding = true;
  const fold = (async () => {
    while (folding) await other.run('select tasklane.fold_tallies()');
  })();
  for (let n = 1; n <= 40; n++) {
    await db.put([{ queue: name }, { queue: name }]);
    const taken = await db.takeOne([`${name}:0`]);
    await db.complete([{ id: taken.id }]);
    assert.equal(
      await watcher.value(`select in_flight::int from tasklane.tenant_stats where tenant = 'default'`),
      before + n,
    );
  }
  folding = false;
  await fold;
});

test('what workers answered in the last minute is read by the index of ends, however much ended before', async () => {
  await db.run(`insert into tasklane.result (id, completed_at, outcome, attempt, status_code, worker, body)
    select n, now() - interval '2 days' + n * interval '0.1 second', 'succeeded', 1, 200, 'old', '{}' from generate_series(1, 200000) n`);
  await db.run(`insert into tasklane.result (id, completed_at, outcome, attempt, status_code, worker, body)
    select 1000000 + n, now(), 'succeeded', 1, 200, 'now', '{}' from generate_series(1, 120) n`);
  await db.run('vacuum analyze tasklane.result');
  await db.run(
    `select tasklane.see_workers(array['now', 'old'], array[null, null], array[null, null], array[null, null])`,
  );
  const rates = await db.rows('select worker, rate::float8 from tasklane.worker_status order by worker');
  assert.deepEqual(rates, [
    { worker: 'now', rate: 2 },
    { worker: 'old', rate: 0 },
  ]);
  const plan = await db.rows<{ 'QUERY PLAN': string }>(
    'explain (analyze, costs off, timing off) select * from tasklane.worker_status',
  );
  const text = plan.map((row) => row['QUERY PLAN']).join('\n');
  assert.match(text, /Bitmap Index Scan on result_default_completed_at_idx/);
  const rechecked = /Rows Removed by Index Recheck: (\d+)/.exec(text)?.[1] ?? '0';
  assert.ok(Number(rechecked) < 20_000, text);
});

test('a rate may be so low that the next put is hardly ever due', async () => {
  await db.run(`select tasklane.set_tenant('default', '{"puts_per_second": 1e-300}')`);
  const spend = () => db.value<number>('select tasklane.spend_rate(1, 1e-300, 1)');
  assert.equal(await spend(), 0);
  assert.ok((await spend()) > 1e8);
  await db.run(`select tasklane.set_tenant('default', '{"puts_per_second": null}')`);
});
