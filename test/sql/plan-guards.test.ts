import assert from 'node:assert/strict';
import { before, describe, test } from 'node:test';
import { type Session, type TakeOptions, takeValues, testDatabase } from '../support/sql.ts';

// What a call may touch, in 8 kB buffers, whatever the backlog. Measured on Postgres 18 at a million waiting tasks, 4 lanes: see the
// assertion messages. A plan gone wrong touches tens of thousands.
const BOUND = { take1: 150, take10: 500, put: 150, complete: 150, cancel: 150, state: 60 };
const STRATEGIES = ['fifo', 'round_robin', 'active_passive', 'sequential'];
const QUEUES = ['q1', 'q2', 'q3', 'q4'];
const LANES = QUEUES.map((queue) => `${queue}:0`);

type Plan = { Plan: { 'Shared Hit Blocks': number; 'Shared Read Blocks': number } };

/** The buffers that a statement touches; it is run. */
async function buffers(session: Session, text: string, values: unknown[]): Promise<number> {
  const plans = await session.value<Plan[]>(`explain (analyze, buffers, timing off, format json) ${text}`, values);
  const plan = plans[0]?.Plan;
  assert.ok(plan);
  return plan['Shared Hit Blocks'] + plan['Shared Read Blocks'];
}

const takeBuffers = (session: Session, options: TakeOptions) =>
  buffers(session, 'select * from tasklane.take_tasks($1, $2, $3, $4, $5, $6, $7, $8, $9)', takeValues(LANES, options));

/** Makes `live` waiting tasks over the lanes, after `dead` others that are then deleted and that no vacuum clears away. */
async function fill(db: Session, live: number, dead: number, beforeDelete: () => Promise<void>): Promise<void> {
  for (const table of ['ready', 'running'])
    await db.run(`alter table tasklane.${table} set (autovacuum_enabled = off)`);
  await db.run(
    `with made as materialized (
       select tasklane.first_id_of(now()) + n as id, (array_agg(lane_id order by lane_id) over ())[1 + n % 4] as lane_id
       from generate_series(1, $1::int) n cross join lateral (select 1) one, lateral (select null) two, tasklane.lane where false
     ) select 1 from made`,
    [1],
  );
  const lanes = await db.value<number[]>('select array_agg(lane_id order by lane_id) from tasklane.lane');
  await db.run(
    `insert into tasklane.ready (id, expires_at, lane_id, attempt, rank)
     select tasklane.first_id_of(now()) + n, now() + interval '1 day', $2[1 + n % 4], 0, 95 from generate_series(1, $1::int) n`,
    [live + dead, lanes],
  );
  await db.run(
    `insert into tasklane.task (id, created_at, expires_at, lane_id, tenant_id, mode, rank, data)
     select tasklane.first_id_of(now()) + n, now(), now() + interval '1 day', $2[1 + n % 4], 1, 'callback', 95, '{}'
     from generate_series(1, $1::int) n`,
    [live + dead, lanes],
  );
  await beforeDelete();
  await db.run('delete from tasklane.ready where id <= (select min(id) from tasklane.ready) + $1', [dead - 1]);
}
