import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { readFile } from 'node:fs/promises';
import { test } from 'node:test';
import { migrate } from '../../server/db/migrate.ts';
import { testDatabase } from '../support/sql.ts';

const database = await testDatabase();
const db = await database.open();

/** The schema as its first version left it, with these rows of tasks in it. */
async function firstVersion(): Promise<void> {
  const name = 'migrations/0001_create_tables.sql';
  const text = await readFile(new URL(`../../sql/${name}`, import.meta.url), 'utf8');
  await db.run('drop schema tasklane cascade');
  await db.run(`create schema tasklane;
    create table tasklane.migration (name text primary key, checksum text not null, applied_at timestamptz not null default now())`);
  await db.run(text);
  await db.run('insert into tasklane.migration (name, checksum) values ($1, $2)', [
    name,
    createHash('sha256').update(text).digest('hex'),
  ]);
  await db.run("insert into tasklane.queue (queue, endpoint) values ('old', '/v1/chat/completions')");
  await db.run('insert into tasklane.lane (queue_id, level, put_count, ended_count) values (1, 0, 4, 1)');
  await db.run(
    `insert into tasklane.task (id, created_at, expires_at, lane_id, tenant_id, mode, rank, data)
     select id, now(), now() + interval '1 day', 1, 1, 'callback', 95, '{"old":true}' from generate_series(1, 4) id`,
  );
  await db.run(
    "insert into tasklane.ready (id, expires_at, lane_id, attempt, rank) values (1, now() + interval '1 day', 1, 0, 95)",
  );
  await db.run(
    `insert into tasklane.running (id, expires_at, taken_at, lease_until, lane_id, queue_id, attempt, rank, worker)
     select id, now() + interval '1 day', now() - interval '1 hour', until, 1, 1, 1, 95, 'old worker'
     from (values (2, now() + interval '1 hour'), (3, now() - interval '1 minute')) r(id, until)`,
  );
  await db.run(
    "insert into tasklane.result values (4, now(), now(), 'succeeded', 1, 200, null, 'old worker', '{\"done\":true}')",
  );
}

test('tasks of the first version live on: they wait, run, lapse and have ended as before', async () => {
  await firstVersion();
  await migrate(database.url);
  const states = () => db.rows('select id::int, status, attempt from tasklane.task_status order by id');
  assert.deepEqual(await states(), [
    { id: 1, status: 'waiting', attempt: 0 },
    { id: 2, status: 'running', attempt: 1 },
    { id: 3, status: 'running', attempt: 1 },
    { id: 4, status: 'succeeded', attempt: 1 },
  ]);
  assert.equal(await db.value("select in_flight::int from tasklane.tenant_stats where tenant = 'default'"), 3);

  await db.rows('select * from tasklane.sweep_due()');
  assert.equal(await db.state(3n), 'waiting');
  assert.deepEqual(await db.rows('select verdict from tasklane.extend_leases(array[2], array[1])'), [
    { verdict: 'extended' },
  ]);
  assert.deepEqual(await db.verdicts([{ id: 2n, attempt: 1 }]), ['completed']);
  const taken = await db.take(['old:0'], { size: 9 });
  assert.deepEqual(
    taken.map(({ id, attempt, data }) => [id, attempt, data]),
    [
      [1n, 1, '{"old":true}'],
      [3n, 2, '{"old":true}'],
    ],
  );
  assert.deepEqual(await db.verdicts(taken), ['completed', 'completed']);
  assert.equal(await db.value("select in_flight::int from tasklane.tenant_stats where tenant = 'default'"), 0);
});
