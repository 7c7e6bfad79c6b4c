import assert from 'node:assert/strict';
import { test } from 'node:test';
import { until } from '../acceptance/clients.ts';
import type { Answer, Json } from '../support/server.ts';
import { Session } from '../support/sql.ts';
import { assertRefused, CHAT, EMBED, fixture } from './fixture.ts';

const f = fixture();
let names = 0;
async function sql(text: string, values: unknown[]): Promise<void> {
  const psql = await new Session(f.server.databaseUrl).open();
  await psql.run(text, values).finally(() => psql.client.end());
}

const name = () => `schedule of test ${++names}`;
const taskFor = (queue: string, more: object = {}) => ({ queue, endpoint: CHAT, data: {}, ...more });
/** Due on New Year only, unless it says something else. */
const bodyOf = (queue: string, more: object = {}) => ({ name: name(), cron: '@yearly', task: taskFor(queue), ...more });

async function make(more: object = {}, as = f.client): Promise<Json> {
  const answer = await as('POST', '/v1/schedules', bodyOf(await f.queue(), more));
  assert.equal(answer.status, 200, answer.text);
  return answer.json;
}
const get = async (id: string) => (await f.client('GET', `/v1/schedules/${id}`)).json;
const newYear = (after = Date.now()) => Date.UTC(new Date(after).getUTCFullYear() + 1, 0);
const setNextRun = (id: string, value: string) =>
  sql(`update tasklane.schedule set next_run = ${value} where 'schedule-' || schedule_id = $1`, [id]);

test('a new schedule answers itself, with what was left out filled in', async () => {
  const queue = await f.queue();
  const body = bodyOf(queue);
  const { id, ...rest } = (await f.client('POST', '/v1/schedules', body)).json;
  assert.match(id, /^schedule-\d+$/);
  assert.deepEqual(rest, {
    ...{ name: body.name, cron: '@yearly', timezone: 'UTC', task: body.task, enabled: true, missed: 'skip' },
    ...{ next_run: newYear(), last_run: null, run_count: 0, last_task_id: null, last_error: null },
  });
  assert.deepEqual(await get(id), { id, ...rest });
});

test('null stands for what is left out, as typed clients send it', async () => {
  const made = await make({ timezone: null, enabled: null, missed: null });
  assert.deepEqual([made.timezone, made.enabled, made.missed], ['UTC', true, 'skip']);
  const none = { name: null, cron: null, timezone: null, task: null, enabled: null, missed: null };
  assert.deepEqual((await f.client('PATCH', `/v1/schedules/${made.id}`, none)).json, made);
});

test('a time is that of its zone', async () => {
  const { next_run } = await make({ cron: '0 0 1 1 *', timezone: 'Asia/Tokyo' });
  assert.equal(next_run, newYear(Date.now() + 9 * 3_600_000) - 9 * 3_600_000);
});

test('a task is put at its tick to the letter, and a worker who waits has it at once', async () => {
  const queue = await f.queue();
  const data = '{"n": 1.0, "big": 12345678901234567890,  "n":2, "é\\u0041": [ ]}';
  const task = `{ "queue": "${queue}", "endpoint":"${CHAT}",\n "level": 3, "priority": "high", "trace_id": "t", "data": ${data} }`;
  const made = await f.client('POST', '/v1/schedules', `{"name": "${name()}", "task": ${task}, "cron": "* * * * * *"}`);
  assert.equal(made.status, 200, made.text);
  assert.ok(made.text.includes(`"task":${task},"enabled":true`), made.text);
  const { id } = made.json;
  const taken = await f.worker('POST', '/v1/queue/take', { queues: [`${queue}:3`], size: 1, wait: 10 });
  const [first] = taken.json[`${queue}:3`];
  assert.ok(taken.text.includes(`"data":${data}`), taken.text);
  assert.deepEqual([first.trace_id, first.level, first.response_mode], ['t', 3, 'callback']);
  const off = await f.client('POST', `/v1/schedules/${id}/disable`);
  assert.ok(off.text.includes(`"task":${task},"enabled":false`), off.text);
  assert.ok(off.json.run_count >= 1);
  assert.equal(off.json.last_run % 1000, 0);
  assert.equal(off.json.next_run, null);
  const listed = await f.client('GET', '/v1/schedules?limit=1000');
  assert.ok(listed.text.includes(task));
});

test('the task is its maker’s: it bears the key and belongs to the tenant', async () => {
  const queue = await f.queue();
  const { id } = (await f.other('POST', '/v1/schedules', bodyOf(queue))).json;
  await setNextRun(id, 'now()');
  const task = await f.takeOne(`${queue}:0`);
  assert.match(task.ak, /^key-\d+$/);
  const made = (await f.other('GET', `/v1/schedules/${id}`)).json;
  assert.deepEqual([made.last_task_id, made.run_count, made.last_error], [task.task_id, 1, null]);
  assert.equal((await f.other('GET', `/v1/queue/${task.task_id}`)).status, 200);
  assertRefused(await f.client('GET', `/v1/queue/${task.task_id}`), 404);
});

test('a second schedule of the same name conflicts, so that a create may be repeated; another tenant has names of its own', async () => {
  const body = bodyOf(await f.queue());
  assert.equal((await f.client('POST', '/v1/schedules', body)).status, 200);
  assertRefused(
    await f.client('POST', '/v1/schedules', body),
    409,
    /there is a schedule "schedule of test \d+" already/,
  );
  assert.equal((await f.other('POST', '/v1/schedules', body)).status, 200);
  const second = await make();
  assertRefused(await f.client('PATCH', `/v1/schedules/${second.id}`, { name: body.name }), 409, /already/);
  assert.deepEqual(await get(second.id), second);
});

test('of creates at the same time one makes the schedule', async () => {
  const body = bodyOf(await f.queue());
  const answers = await Promise.all(Array.from({ length: 8 }, () => f.client('POST', '/v1/schedules', body)));
  assert.deepEqual(answers.map(({ status }) => status).sort(), [200, 409, 409, 409, 409, 409, 409, 409]);
});

test('what is wrong is refused by path, and changes nothing', async () => {
  const queue = await f.queue();
  const made = await make();
  const task = (more: object) => ({ task: taskFor(queue, more) });
  const bad: [object, number, string?][] = [
    [{ name: '' }, 400, 'name'],
    [{ name: 'x'.repeat(201) }, 400, 'name'],
    [{ name: 'a\0b' }, 400, 'name'],
    [{ name: 7 }, 400, 'name'],
    [{ cron: '' }, 400, 'cron'],
    [{ cron: 'often' }, 400, 'cron'],
    [{ cron: '61 * * * *' }, 400, 'cron'],
    [{ cron: '0 0 30 2 *' }, 400, 'cron'],
    [{ cron: '2030-01-01T00:00:00' }, 400, 'cron'],
    [{ cron: `0${',0'.repeat(300)} * * * *` }, 400, 'cron'],
    [{ timezone: 'Mars/Olympus' }, 400, 'timezone'],
    [{ timezone: '+01:00' }, 400, 'timezone'],
    [{ timezone: '' }, 400, 'timezone'],
    [{ missed: 'some' }, 400, 'missed'],
    [{ enabled: 'yes' }, 400, 'enabled'],
    [{ task: 'a task' }, 400, 'task'],
    [{ task: { queue } }, 400, 'task.endpoint'],
    [task({ data: 1 }), 400, 'task.data'],
    [task({ timeout: 0 }), 400, 'task.timeout'],
    [task({ response_mode: 'blocking' }), 400, 'task.response_mode'],
    [task({ response_mode: 'streaming' }), 400, 'task.response_mode'],
    [task({ run_at: '2030-01-01T00:00:00Z' }), 400, 'task.run_at'],
    [task({ run_at: 1 }), 400, 'task.run_at'],
    [task({ idempotency_key: 'k' }), 400, 'task.idempotency_key'],
    [task({ callback_url: 'http://169.254.169.254/' }), 400, 'task.callback_url'],
    [task({ callback_url: 'ftp://example.com/' }), 400, 'task.callback_url'],
    [task({ queue: 'nowhere' }), 404],
    [task({ endpoint: EMBED }), 400],
    [task({ queue: null, data: { model: 'nobody' } }), 400],
  ];
  for (const [wrong, status, path] of bad) {
    assertRefused(await f.client('POST', '/v1/schedules', bodyOf(queue, wrong)), status, undefined, path);
    assertRefused(await f.client('PATCH', `/v1/schedules/${made.id}`, wrong), status, undefined, path);
  }
  for (const missing of ['name', 'cron', 'task'])
    assertRefused(
      await f.client('POST', '/v1/schedules', { ...bodyOf(queue), [missing]: undefined }),
      400,
      undefined,
      missing,
    );
  assert.deepEqual(await get(made.id), made);
});

test('a task may say delay_seconds, callback_url and what else a put may', async () => {
  const queue = await f.queue();
  const task = taskFor(queue, {
    delay_seconds: 5,
    callback_url: 'http://127.0.0.1:9/',
    max_attempts: 2,
    metadata: { a: 'b' },
  });
  assert.deepEqual((await make({ task })).task, task);
});

test('without a queue the task goes where its model leads, at the time of the tick', async () => {
  const first = await f.queue();
  const second = await f.queue();
  const channel = (queue: string) => f.worker('POST', '/v1/channels', { endpoint: CHAT, model: 'scheduled', queue });
  await channel(first);
  const { id } = await make({ task: { endpoint: CHAT, data: { model: 'scheduled' } } });
  await channel(second);
  await setNextRun(id, 'now()');
  assert.deepEqual((await f.takeOne(`${second}:0`)).data, { model: 'scheduled' });
});

test('a schedule whose queue has gone says so, and goes on', async () => {
  const queue = await f.queue();
  const { id } = await make({ task: taskFor(queue), cron: '@daily' });
  assert.equal((await f.worker('DELETE', `/v1/queue/${queue}`)).status, 204);
  await setNextRun(id, 'now()');
  const told = await until('the tick is refused', async () => {
    const now = await get(id);
    return now.last_error !== null && now;
  });
  assert.match(told.last_error, /unknown queue/);
  assert.deepEqual([told.run_count, told.last_run, told.last_task_id], [0, null, null]);
  assert.ok(told.next_run > Date.now() && told.next_run <= Date.now() + 86_400_000);
});

test('PATCH changes what it names; another cron or zone counts from now', async () => {
  const { id, ...made } = await make();
  const queue = await f.queue();
  const patch = async (change: object) => {
    const answer = await f.client('PATCH', `/v1/schedules/${id}`, change);
    assert.equal(answer.status, 200, answer.text);
    return answer.json;
  };
  const renamed = name();
  assert.deepEqual(await patch({ name: renamed, missed: 'all', unknown: 1 }), {
    id,
    ...made,
    name: renamed,
    missed: 'all',
  });
  assert.deepEqual((await patch({ task: taskFor(queue, { level: 1 }) })).task, taskFor(queue, { level: 1 }));
  assert.equal((await patch({ cron: '@monthly' })).next_run, nextMonth());
  assert.equal((await patch({ timezone: 'Etc/GMT+1' })).next_run, nextMonth(-3_600_000) + 3_600_000);
  // A time that has passed is none that it missed.
  await sql("update tasklane.schedule set enabled = false, next_run = now() - interval '1 day' where name = $1", [
    renamed,
  ]);
  const again = await patch({ cron: '@yearly', timezone: 'UTC', enabled: true });
  assert.deepEqual([again.next_run, again.run_count, again.cron], [newYear(), 0, '@yearly']);
});

function nextMonth(offset = 0): number {
  const now = new Date(Date.now() + offset);
  return Date.UTC(now.getUTCFullYear(), now.getUTCMonth() + 1);
}

test('disabled, it has no next run and puts nothing; enabled, it counts from now', async () => {
  const queue = await f.queue();
  const { id } = await make({ task: taskFor(queue), cron: '* * * * * *', missed: 'all', enabled: false });
  assert.equal((await get(id)).next_run, null);
  const call = async (what: string) => (await f.client('POST', `/v1/schedules/${id}/${what}`)).json;
  assert.deepEqual(await call('disable'), await get(id));
  const on = await call('enable');
  assert.equal(on.enabled, true);
  assert.ok(on.next_run > Date.now() - 5000 && on.next_run <= Date.now() + 2000);
  await until('it fires', async () => (await get(id)).run_count > 0);
  const off = await call('disable');
  assert.deepEqual([off.enabled, off.next_run], [false, null]);
  const ran = off.run_count;
  // Ten minutes without it are none that it missed, though it wants them all.
  await setNextRun(id, "now() - interval '10 minutes'");
  await call('enable');
  await until('it fires', async () => (await get(id)).run_count > ran);
  const { run_count } = await call('disable');
  assert.ok(run_count - ran < 20, `${run_count - ran} ticks`);
  assert.equal((await f.take(`${queue}:0`, { size: 1000 })).length, run_count);
});

test('enabling what is enabled does not forget ticks that are due', async () => {
  const { id } = await make({ cron: '@yearly', missed: 'one' });
  await setNextRun(id, "now() + interval '1 hour'");
  const before = (await get(id)).next_run;
  assert.equal((await f.client('POST', `/v1/schedules/${id}/enable`)).json.next_run, before);
  assert.equal((await f.client('PATCH', `/v1/schedules/${id}`, { enabled: true })).json.next_run, before);
});

test('changes at the same time are all made', async () => {
  const { id, ...made } = await make();
  const renamed = name();
  const changes = [
    { name: renamed },
    { cron: '@monthly' },
    { missed: 'one' },
    { timezone: 'Europe/Berlin' },
    { enabled: false },
  ];
  const answers = await Promise.all(changes.map((change) => f.client('PATCH', `/v1/schedules/${id}`, change)));
  assert.deepEqual(
    answers.map(({ status }) => status),
    [200, 200, 200, 200, 200],
  );
  const changed = {
    name: renamed,
    cron: '@monthly',
    missed: 'one',
    timezone: 'Europe/Berlin',
    enabled: false,
    next_run: null,
  };
  assert.deepEqual(await get(id), { id, ...made, ...changed });
});

test('deleted, it is gone, and its tasks stay', async () => {
  const queue = await f.queue();
  const { id } = await make({ task: taskFor(queue) });
  await setNextRun(id, 'now()');
  await until('it fires', async () => (await get(id)).run_count > 0);
  const gone = await f.client('DELETE', `/v1/schedules/${id}`);
  assert.deepEqual([gone.status, gone.text], [204, '']);
  for (const [method, path, body] of callsOf(id))
    assertRefused(await f.client(method, path, body), 404, /unknown schedule/);
  await f.takeOne(`${queue}:0`);
});

const callsOf = (id: string): [string, string, object?][] => [
  ['GET', `/v1/schedules/${id}`],
  ['PATCH', `/v1/schedules/${id}`, { missed: 'all' }],
  ['POST', `/v1/schedules/${id}/enable`],
  ['POST', `/v1/schedules/${id}/disable`],
  ['DELETE', `/v1/schedules/${id}`],
];

test('another tenant’s schedule is not there; an admin may do everything with it', async () => {
  const made = await make();
  for (const [method, path, body] of callsOf(made.id)) {
    const answer = await f.other(method, path, body);
    assertRefused(answer, 404, new RegExp(`unknown schedule ${made.id}$`));
  }
  const listed = async (as: typeof f.client) =>
    (await as('GET', '/v1/schedules?limit=1000')).json.data.some((one: Json) => one.id === made.id);
  assert.deepEqual([await listed(f.client), await listed(f.other), await listed(f.admin)], [true, false, true]);
  assert.deepEqual(await get(made.id), made);
  for (const [method, path, body] of callsOf(made.id))
    assert.equal((await f.admin(method, path, body)).status, method === 'DELETE' ? 204 : 200);
});

test('names of no schedule are a 404', async () => {
  for (const id of [
    'schedule-0',
    'schedule-999999',
    'schedule-99999999999',
    'schedule-01',
    'schedule-',
    'schedule-1x',
    '1',
    'key-1',
    '%00',
  ])
    for (const [method, path, body] of callsOf(id)) assertRefused(await f.client(method, path, body), 404);
});

test('lists come in pages, newest first', async () => {
  const key = await f.server.key('client', 'pages');
  const as = (method: string, path: string, body?: object): Promise<Answer> =>
    f.server.request(method, path, body, { key });
  const queue = await f.queue();
  assert.deepEqual((await as('GET', '/v1/schedules')).json, { data: [], has_more: false });
  const ids: string[] = [];
  for (let n = 0; n < 5; n++) ids.unshift((await as('POST', '/v1/schedules', bodyOf(queue))).json.id);
  const seen: string[] = [];
  for (let after = '', more = true; more; ) {
    const { json } = await as('GET', `/v1/schedules?limit=2${after}`);
    seen.push(...json.data.map((one: Json) => one.id));
    more = json.has_more;
    assert.equal(more, seen.length < 5);
    after = `&after=${seen.at(-1)}`;
  }
  assert.deepEqual(seen, ids);
  assert.equal((await as('GET', '/v1/schedules?limit=5')).json.has_more, false);
  assertRefused(await as('GET', '/v1/schedules?limit=0'), 400, undefined, 'limit');
  assertRefused(await as('GET', '/v1/schedules?limit=1001'), 400, undefined, 'limit');
  assertRefused(await as('GET', '/v1/schedules?after=7'), 400, undefined, 'after');
});

test('a list stops at 32 MiB, and says that there is more', async () => {
  const key = await f.server.key('client', 'large');
  const as = (method: string, path: string, body?: object): Promise<Answer> =>
    f.server.request(method, path, body, { key });
  const { id } = (await as('POST', '/v1/schedules', bodyOf(await f.queue()))).json;
  const large = `insert into tasklane.schedule (tenant_id, name, cron, task)
    select tenant_id, 'large ' || n, cron, to_json(repeat('x', 9 << 20)) from tasklane.schedule, generate_series(1, 4) n
    where 'schedule-' || schedule_id = $1`;
  await sql(large, [id]);
  const first = (await as('GET', '/v1/schedules')).json;
  assert.deepEqual([first.data.length, first.has_more], [3, true]);
  const second = (await as('GET', `/v1/schedules?after=${first.data[2].id}`)).json;
  assert.deepEqual([second.data.length, second.data[1].id, second.has_more], [2, id, false]);
});

test('a preview gives the next ticks', async () => {
  const preview = async (query: Record<string, string>) =>
    f.client('GET', `/v1/schedules/preview?${new URLSearchParams(query)}`);
  const five = (await preview({ cron: '0 0 1 1 *' })).json;
  assert.deepEqual(five, { data: [0, 1, 2, 3, 4].map((n) => Date.UTC(new Date().getUTCFullYear() + 1 + n, 0)) });
  const one = (await preview({ cron: '@yearly', timezone: 'Etc/GMT-2', count: '1' })).json.data;
  assert.deepEqual(one, [newYear(Date.now() + 7_200_000) - 7_200_000]);
  assert.equal((await preview({ cron: '* * * * * *', count: '100' })).json.data.length, 100);
  const bad: [Record<string, string>, string][] = [
    [{}, 'cron'],
    [{ cron: 'x' }, 'cron'],
    [{ cron: '0 0 31 4 *' }, 'cron'],
    [{ cron: '@daily', timezone: 'Nowhere' }, 'timezone'],
    [{ cron: '@daily', count: '0' }, 'count'],
    [{ cron: '@daily', count: '101' }, 'count'],
    [{ cron: '@daily', count: '1.5' }, 'count'],
    [{ cron: '@daily', count: 'x' }, 'count'],
  ];
  for (const [query, path] of bad) assertRefused(await preview(query), 400, undefined, path);
});
