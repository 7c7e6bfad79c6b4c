import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import fc from 'fast-check';
import { code, type PutRow, testDatabase } from '../support/sql.ts';

const database = await testDatabase();
const db = await database.open();

const CHAT = '/v1/chat/completions';
const queue = (endpoint?: string) => db.register(database.name(), endpoint);
const ids = (rows: { id: bigint }[]) => rows.map((row) => row.id);

async function running() {
  const name = await queue();
  await db.putOne({ queue: name });
  return db.takeOne([`${name}:0`]);
}

describe('a person in psql', () => {
  test('puts, takes, reports, answers and looks at a task', async () => {
    const name = await db.value<string>("select tasklane.register_queue('deepseek-r1', '/v1/chat/completions')");
    const id = await db.value<string>(
      `select tasklane.put('deepseek-r1', '{"n": 1.0}', level => 1, priority => 10, trace_id => 'tr')`,
    );
    assert.match(id, /^TASK-\d+-1-C-\d{12}-\d{4}-\d{6}$/);
    const status = () =>
      db.rows(
        'select status, attempt, worker, status_code, data::text, result::text from tasklane.task_status where task_id = $1',
        [id],
      );
    const waits = { status: 'waiting', attempt: 0, worker: null, status_code: null, data: '{"n": 1.0}', result: null };
    assert.deepEqual(await status(), [waits]);
    assert.deepEqual(
      await db.rows("select task_id, attempt, queue, level, data from tasklane.take('deepseek-r1:1', size => 5)"),
      [{ task_id: id, attempt: 1, queue: name, level: 1, data: { n: 1 } }],
    );
    assert.deepEqual(await status(), [{ ...waits, status: 'running', attempt: 1, worker: 'psql' }]);
    assert.equal(await db.value("select tasklane.emit_event($1, 'chunk', '{}')", [id]), 1);
    assert.equal(await db.value("select tasklane.emit_event($1, 'chunk')", [id]), 2);
    assert.equal(await db.value(`select tasklane.complete($1, 200, '{"x": 1.0}', request_id => 'r')`, [id]), id);
    assert.deepEqual(await status(), [
      {
        ...waits,
        status: 'succeeded',
        attempt: 1,
        worker: 'psql',
        status_code: 200,
        result: '{"status_code":200,"request_id":"r","body":{"x": 1.0}}',
      },
    ]);
    await assert.rejects(db.value("select tasklane.emit_event($1, 'chunk')", [id]), code('TL409'));
    await assert.rejects(db.value('select tasklane.cancel($1)', [id]), code('TL409'));
  });

  for (const [mode, letter] of [
    ['blocking', 'B'],
    ['streaming', 'S'],
    ['callback', 'C'],
  ])
    test(`puts in mode ${mode}, whose letter is ${letter}`, async () => {
      const name = await queue();
      const id = await db.value<string>('select tasklane.put($1, $2, response_mode => $3)', [name, '{}', mode]);
      assert.equal(id.split('-')[3], letter);
      assert.equal((await db.takeOne([`${name}:0`])).mode, mode);
    });

  test('withdraws a task, and is told of one that is not there', async () => {
    const name = await queue();
    const id = await db.value<string>("select tasklane.put($1, '{}')", [name]);
    assert.equal(await db.value('select tasklane.cancel($1)', [id]), id);
    assert.equal(
      await db.value('select result::text from tasklane.task_status where task_id = $1', [id]),
      `{"status_code":499,"request_id":"${id}","error":{"code":499,"message":"the task was cancelled","type":"cancelled"}}`,
    );
    for (const unknown of ['TASK-1-0-C-250102000000-0000-000001', 'junk', ''])
      for (const call of ['cancel($1)', "complete($1, 200, '{}')", "emit_event($1, 'chunk')"])
        await assert.rejects(db.value(`select tasklane.${call}`, [unknown]), code('TL404'), call);
  });

  test('is refused what cannot be', async () => {
    const name = await queue();
    const { task_id } = await running();
    for (const call of [
      `put('${name}', '{}', level => 100)`,
      `put('${name}', '{}', level => -1)`,
      `put('${name}', '{}', priority => 101)`,
      `put('${name}', '{}', timeout => 0)`,
      `put('${name}', null)`,
      `put('${name}', '{}', response_mode => 'batch')`,
      `put('${name}', '{}', endpoint => '/v1/other')`,
      `put(null, '{"model": "nobody"}', endpoint => '${CHAT}')`,
      `put(null, '{}', endpoint => '${CHAT}')`,
      `complete('${task_id}', 199, '{}')`,
      `complete('${task_id}', 600, '{}')`,
      `complete('${task_id}', 200, null)`,
      `emit_event('${task_id}', 'completion')`,
      `emit_event('${task_id}', 'error')`,
      `emit_event('${task_id}', '')`,
    ])
      await assert.rejects(db.value(`select tasklane.${call}`), code('TL400'), call);
    await assert.rejects(db.value("select tasklane.put('nowhere', '{}')"), code('TL404'));
    for (const size of [0, 1001])
      await assert.rejects(db.value('select tasklane.take($1::text, $2)', [`${name}:0`, size]), code('TL400'));
  });
});

describe('a queue', () => {
  test('registered again keeps its settings, and for another endpoint it is TL409', async () => {
    const name = await queue();
    await db.register(name, CHAT, { lease_seconds: 5, max_depth: 10 });
    await db.register(name);
    const settings = () => db.rows('select lease_seconds, max_depth from tasklane.queue where queue = $1', [name]);
    assert.deepEqual(await settings(), [{ lease_seconds: 5, max_depth: 10 }]);
    await assert.rejects(db.register(name, '/v1/embeddings', { lease_seconds: 6 }), code('TL409'));
    await db.register(name, CHAT, { max_depth: null });
    assert.deepEqual(await settings(), [{ lease_seconds: 5, max_depth: null }]);
  });

  test('of a reserved or malformed name, without endpoint or with impossible settings is TL400', async () => {
    for (const name of [
      'put',
      'puts',
      'take',
      'complete',
      'register',
      'events',
      'eventbus',
      'heartbeat',
      'TASK-1',
      '',
      'a b',
      'a:0',
      'a/b',
      'x'.repeat(65),
    ])
      await assert.rejects(db.register(name), code('TL400'), name);
    for (const endpoint of ['', 'x'.repeat(257)]) await assert.rejects(db.register('fine', endpoint), code('TL400'));
    for (const settings of [
      { lease_seconds: 0 },
      { max_attempts: 0 },
      { max_depth: -1 },
      { lease_seconds: 'soon' },
      { max_running: 1e12 },
    ])
      await assert.rejects(db.register('fine', CHAT, settings), code('TL400'), JSON.stringify(settings));
    assert.equal(await db.value("select count(*)::int from tasklane.queue where queue = 'fine'"), 0);
  });

  test('is not deleted while tasks wait or run; then its name is free and its tasks stay readable', async () => {
    const name = await queue();
    const put = await db.putOne({ queue: name });
    const remove = () => db.run('select tasklane.delete_queue($1)', [name]);
    await db.run("select tasklane.put_channel($1, 'model-of-it', $2)", [CHAT, name]);
    await assert.rejects(remove(), code('TL409'));
    await db.takeOne([`${name}:0`]);
    await assert.rejects(remove(), code('TL409'));
    await db.complete([put]);
    await remove();
    await assert.rejects(db.take([`${name}:0`]), code('TL404'));
    await assert.rejects(remove(), code('TL404'));
    assert.equal((await db.tryPut([{ queue: name }]))[0]?.code, 'TL404');
    assert.equal((await db.tryPut([{ endpoint: CHAT, data: '{"model":"model-of-it"}' }]))[0]?.code, 'TL400');
    assert.equal(await db.value('select status from tasklane.task_status where id = $1', [put.id]), 'succeeded');
    await db.register(name, '/v1/embeddings');
    assert.deepEqual(await db.take([`${name}:0`]), []);
  });
});

describe('routing', () => {
  test('goes by the channel, then by a queue of the name of the model, else nowhere', async () => {
    const [one, two] = [await queue(), await queue()];
    const route = async (endpoint: string | null, model: string) => {
      const [row] = await db.tryPut([{ queue: null, endpoint, data: JSON.stringify({ model }) }]);
      return row?.code ?? (await db.value<string>('select queue from tasklane.task_status where id = $1', [row?.id]));
    };
    assert.equal(await route(CHAT, one), one);
    await db.run('select tasklane.put_channel($1, $2, $3)', [CHAT, one, two]);
    assert.equal(await route(CHAT, one), two);
    await db.run('select tasklane.put_channel($1, $2, $3)', [CHAT, one, one]);
    assert.equal(await route(CHAT, one), one);
    assert.equal(await route('/v1/embeddings', one), 'TL400');
    assert.equal(await route(null, one), 'TL400');
    await assert.rejects(db.run("select tasklane.put_channel('/v1/embeddings', 'm', $1)", [one]), code('TL400'));
    await assert.rejects(db.run("select tasklane.put_channel($1, 'm', 'nowhere')", [CHAT]), code('TL404'));
  });

  test('of one item never decides another, however alike they are written', async () => {
    const name = await queue();
    const posing = [' ', ',', ':', '|', '\x1f', "' '"].map((between) => ({ queue: `${name}${between}${CHAT}` }));
    const rows = await db.tryPut([
      ...posing,
      { queue: null, endpoint: name },
      { queue: null, data: `{"model":"${name}"}` },
      { queue: name },
      { queue: name, endpoint: CHAT },
    ]);
    assert.deepEqual(
      rows.map((row) => row.code),
      [...posing.map(() => 'TL404'), 'TL400', 'TL400', null, null],
    );
  });

  test('to the named queue does not read the payload, whatever characters stand in it', async () => {
    const name = await queue();
    const data = '{"model":"\\u0000","text":"\\ud800"}';
    await db.putOne({ queue: name, data });
    assert.equal((await db.takeOne([`${name}:0`])).data, data);
  });
});

describe('a put of many', () => {
  test('is refused or accepted by group, and the other groups are not touched', async () => {
    const name = await queue();
    const rows = await db.tryPut([
      { queue: name, group: 1 },
      { queue: name, group: 2 },
      { queue: 'nowhere', group: 1 },
      { queue: name, group: 1, level: 3 },
      { queue: name, group: 3 },
    ]);
    assert.deepEqual(
      rows.map((row) => [row.ord, row.id !== null, row.code]),
      [
        [1, false, null],
        [2, true, null],
        [3, false, 'TL404'],
        [4, false, null],
        [5, true, null],
      ],
    );
    assert.deepEqual(ids(await db.take([`${name}:0`, `${name}:3`], { size: 9 })), [rows[1]?.id, rows[4]?.id]);
  });

  test('keeps every payload to the letter', async () => {
    const name = await queue();
    const texts = [
      '{"a": 1.0, "a":2, "n":12345678901234567890}',
      ' [ 1e2,\t-0.0 ]\n',
      '"\\u00e9é\\/"',
      'null',
      '{"z":1,"a":{"b":1E+2}}',
    ];
    await db.put(texts.map((data) => ({ queue: name, data })));
    const taken = await db.take([`${name}:0`], { size: 9 });
    assert.deepEqual(
      taken.map((row) => row.data),
      texts,
    );
    await db.complete(taken.map((row, index) => ({ id: row.id, body: texts[index] as string })));
    assert.deepEqual(
      await db.value('select array_agg(body::text order by id) from tasklane.result where id = any($1)', [ids(taken)]),
      texts,
    );
  });
});

describe('an answer', () => {
  test('given again is a repeat if it says the same, else it is told how the task ended, and the first stays', async () => {
    const { id } = await running();
    assert.deepEqual(await db.verdicts([{ id, attempt: 1, body: '{"n": 1}' }]), ['completed']);
    for (const [answer, verdict] of [
      [{ body: '{"n": 1}' }, 'repeated'],
      [{ body: '{"n": 1}', attempt: 1 }, 'repeated'],
      [{ body: '{"n":1}' }, 'succeeded'],
      [{ body: '{"n": 1}', status: 201 }, 'succeeded'],
      [{ body: '{"n": 1}', attempt: 2 }, 'succeeded'],
    ] as const)
      assert.deepEqual(await db.verdicts([{ id, ...answer }]), [verdict]);
    assert.equal(await db.value('select body::text from tasklane.result where id = $1', [id]), '{"n": 1}');
  });

  test('of any other status than 2xx is a failure', async () => {
    for (const [status, outcome] of [
      [200, 'succeeded'],
      [299, 'succeeded'],
      [300, 'failed'],
      [404, 'failed'],
      [500, 'failed'],
    ] as const) {
      const { id } = await running();
      await db.complete([{ id, status }]);
      assert.equal(await db.state(id), outcome);
    }
  });

  test('to a task that waits, was cancelled, expired or never was is refused', async () => {
    const name = await queue();
    const [waiting, cancelled] = (await db.put([{ queue: name }, { queue: name }])) as [PutRow, PutRow];
    await db.cancel([cancelled.id]);
    const expired = await running();
    await db.age([expired.id]);
    const stale = await running();
    assert.deepEqual(
      await db.verdicts([
        { id: waiting.id },
        { id: cancelled.id },
        { id: expired.id },
        { id: 7n },
        { id: stale.id, attempt: 2 },
      ]),
      ['waiting', 'cancelled', 'expired', 'unknown', 'running'],
    );
    assert.equal(await db.value('select outcome from tasklane.result where id = $1', [expired.id]), 'expired');
  });

  test('of many in one call gets its own verdict, in the order given', async () => {
    const [one, two] = [await running(), await running()];
    assert.deepEqual(
      (
        await db.complete([{ id: 7n }, { id: two.id }, { id: one.id }, { id: two.id }, { id: two.id, status: 500 }])
      ).map((row) => [row.ord, row.id, row.verdict]),
      [
        [1, 7n, 'unknown'],
        [2, two.id, 'completed'],
        [3, one.id, 'completed'],
        [4, two.id, 'repeated'],
        [5, two.id, 'succeeded'],
      ],
    );
  });

  test('under a stale attempt does not stand in the way of the right one in the same call', async () => {
    const name = await queue();
    const { id } = await db.putOne({ queue: name });
    await db.run('update tasklane.ready set attempt = 1 where id = $1', [id]);
    await db.takeOne([`${name}:0`]);
    assert.deepEqual(
      await db.verdicts([
        { id, attempt: 1, body: '1' },
        { id, attempt: 2, body: '2' },
      ]),
      ['succeeded', 'completed'],
    );
    assert.equal(await db.value('select body::text from tasklane.result where id = $1', [id]), '2');
  });

  test('of a task with a callback leaves a delivery to make', async () => {
    const name = await queue();
    const put = await db.put([{ queue: name, callbackUrl: 'http://example.com/a' }, { queue: name }]);
    const done = await db.complete(await db.take([`${name}:0`], { size: 2 }));
    assert.deepEqual(
      done.map((row) => row.has_callback),
      [true, false],
    );
    assert.deepEqual(
      await db.rows('select task_id, url, status from tasklane.callback_delivery where task_id = any($1)', [ids(put)]),
      [{ task_id: put[0]?.id, url: 'http://example.com/a', status: 'pending' }],
    );
  });
});

describe('a cancel', () => {
  test('ends what waits, is deferred or runs, once, and is told of the rest', async () => {
    const name = await queue();
    const [waiting, deferred] = (await db.put([{ queue: name }, { queue: name }])) as [PutRow, PutRow];
    await db.run(
      `with gone as (delete from tasklane.ready where id = $1 returning *)
       insert into tasklane.deferred (id, expires_at, run_at, lane_id, attempt, rank)
       select id, expires_at, now() + interval '1 hour', lane_id, 1, rank from gone`,
      [deferred.id],
    );
    assert.equal(await db.state(deferred.id), 'deferred');
    const list = [waiting.id, deferred.id, (await running()).id];
    assert.deepEqual(await db.refusals([...list, 7n, waiting.id]), [null, null, null, 'unknown', 'cancelled']);
    assert.deepEqual(await db.refusals(list), ['cancelled', 'cancelled', 'cancelled']);
    assert.deepEqual(await db.verdicts(list.map((id) => ({ id }))), ['cancelled', 'cancelled', 'cancelled']);
    assert.deepEqual(await db.take([`${name}:0`]), []);
  });

  test("does not reach another tenant's task", async () => {
    const { id } = await running();
    assert.deepEqual(await db.refusals([id], [2]), ['unknown']);
    assert.deepEqual(await db.refusals([id], [1]), [null]);
  });

  test('finds a task that waits under another priority than it was put with', async () => {
    const name = await queue();
    const { id } = await db.putOne({ queue: name });
    await db.run('update tasklane.ready set rank = 3 where id = $1', [id]);
    assert.deepEqual(await db.refusals([id]), [null]);
    assert.deepEqual(await db.take([`${name}:0`]), []);
  });

  test('of a lane ends what waits there, a part at a time, and nothing else', async () => {
    const name = await queue();
    const put = await db.put([0, 0, 0, 1, 0].map((level) => ({ queue: name, level })));
    const taken = await db.takeOne([`${name}:0`]);
    const clear = (lane: string) => db.rows<{ id: bigint }>('select id from tasklane.clear_lane($1, 2)', [lane]);
    assert.deepEqual(ids(await clear(`${name}:0`)), [put[1]?.id, put[2]?.id]);
    assert.deepEqual(ids(await clear(`${name}:0`)), [put[4]?.id]);
    assert.deepEqual(await clear(`${name}:0`), []);
    assert.deepEqual(await clear(`${name}:9`), []);
    assert.deepEqual(await Promise.all(put.map((row) => db.state(row.id))), [
      'running',
      'cancelled',
      'cancelled',
      'waiting',
      'cancelled',
    ]);
    assert.equal(taken.id, put[0]?.id);
    await assert.rejects(clear('nowhere:0'), code('TL404'));
  });
});

test('return_tasks puts tasks back in the same place, as if they had not been taken', async () => {
  const name = await queue();
  const put = await db.put([5, 9, 5].map((priority) => ({ queue: name, priority })));
  const taken = await db.take([`${name}:0`], { size: 2 });
  const back = (attempt: number) =>
    db.rows<{ id: bigint; rank: number }>('select * from tasklane.return_tasks($1, $2)', [
      ids(taken),
      taken.map(() => attempt),
    ]);
  assert.deepEqual(await back(2), []);
  assert.deepEqual((await back(1)).map((row) => row.rank).sort(), [91, 95]);
  assert.deepEqual(await back(1), []);
  const again = await db.take([`${name}:0`], { size: 9 });
  assert.deepEqual(
    again.map((row) => [row.id, row.attempt, row.rank]),
    [
      [put[1]?.id, 1, 91],
      [put[0]?.id, 1, 95],
      [put[2]?.id, 1, 95],
    ],
  );
});

describe('a deadline that has passed', () => {
  const expired = (rows: { id: bigint }[]) => ids(rows).sort((x, y) => Number(x - y));

  test('shows at once, and expire_tasks ends just those', async () => {
    const name = await queue();
    const [late, other] = (await db.put([{ queue: name }, { queue: name }])) as [PutRow, PutRow];
    await db.age([late.id]);
    assert.deepEqual([await db.state(late.id), await db.state(other.id)], ['expired', 'waiting']);
    const expire = () => db.rows<{ id: bigint }>('select * from tasklane.expire_tasks($1)', [[late.id, other.id, 7n]]);
    assert.deepEqual(ids(await expire()), [late.id]);
    assert.deepEqual(await expire(), []);
    assert.deepEqual(await db.rows('select outcome, status_code from tasklane.result where id = $1', [late.id]), [
      { outcome: 'expired', status_code: 408 },
    ]);
  });

  test('of running and deferred tasks is found by expire_due, a part at a time', async () => {
    const list = [(await running()).id, (await running()).id, (await running()).id];
    await running();
    await db.age(list);
    await db.run(
      `with gone as (delete from tasklane.running where id = $1 returning *)
       insert into tasklane.deferred (id, expires_at, run_at, lane_id, attempt, rank) select id, expires_at, now() + interval '1 hour', lane_id, 1, rank from gone`,
      [list[0]],
    );
    const found: { id: bigint }[] = [];
    for (let rows = [...(await due())]; rows.length > 0; rows = await due()) found.push(...rows);
    assert.deepEqual(expired(found), list);
  });
  const due = () => db.rows<{ id: bigint }>('select * from tasklane.expire_due(1)');

  test('of waiting tasks is found by walking sweep_ready in slices', async () => {
    const name = await queue();
    const put = ids(
      await db.put(Array.from({ length: 23 }, (_, n) => ({ queue: name, level: n % 3, priority: n % 2 }))),
    );
    const late = put.filter((_, n) => n % 5 === 0);
    await db.age(late);
    const found: bigint[] = [];
    let slices = 0;
    for (let at: unknown[] = [0, 0, 0]; at[0] !== null; slices++) {
      const [row] = await db.rows<{ p_lane_id: number; p_rank: number; p_id: bigint; expired: bigint[] | null }>(
        'select * from tasklane.sweep_ready($1, $2::smallint, $3, 4)',
        at,
      );
      found.push(...(row?.expired ?? []));
      at = [row?.p_lane_id, row?.p_rank, row?.p_id];
    }
    assert.ok(slices > 5);
    assert.deepEqual(
      found.filter((id) => put.includes(id)).sort((x, y) => Number(x - y)),
      late,
    );
  });
});

describe('queue_stats', () => {
  const stats = (name: string) =>
    db.rows(
      'select level, waiting, running, deferred, total_put_cnt, total_completed_cnt from tasklane.queue_stats where queue = $1 order by level',
      [name],
    );

  test('counts exactly, before and after the tallies are folded', async () => {
    const name = await queue();
    await db.put([0, 0, 0, 0, 0, 2].map((level) => ({ queue: name, level })));
    const taken = await db.take([`${name}:0`], { size: 3 });
    await db.complete(taken.slice(0, 1));
    await db.cancel(ids(taken).slice(1, 2));
    const before = await stats(name);
    await db.run('select tasklane.fold_tallies()');
    assert.deepEqual(await stats(name), before);
    assert.equal(await db.value('select count(*)::int from tasklane.lane_tally'), 0);
    assert.deepEqual(
      before.map((row) => Object.values(row).map(Number)),
      [
        [0, 2, 1, 0, 5, 2],
        [2, 1, 0, 0, 1, 0],
      ],
    );
  });

  test('is exact at every moment while others put, take, complete and fold', async () => {
    const name = await queue();
    const sessions = await Promise.all(Array.from({ length: 6 }, () => database.open()));
    let working = sessions.length;
    let taken = 0;
    let completed = 0;
    const work = sessions.map(async (session) => {
      for (let n = 0; n < 25; n++) {
        await session.put([{ queue: name }, { queue: name }, { queue: name }]);
        // Fewer than 2 when the others hold what it looked at.
        const mine = await session.take([`${name}:0`], { size: 2 });
        taken += mine.length;
        completed += mine.slice(0, 1).length;
        await session.complete(mine.slice(0, 1));
        await session.run('select tasklane.fold_tallies()');
      }
      working--;
    });
    while (working > 0) {
      const [row] = await db.rows<{ counted: bigint; waiting: bigint }>(
        `select s.waiting::bigint, (select count(*) from tasklane.ready r where r.lane_id = s.lane_id) as counted
         from tasklane.queue_stats s where queue = $1`,
        [name],
      );
      assert.equal(row?.waiting, row?.counted);
    }
    await Promise.all(work);
    assert.deepEqual(
      (await stats(name)).map((row) => Object.values(row).map(Number)),
      [[0, 450 - taken, taken - completed, 0, 450, completed]],
    );
  });

  test('says how long the oldest task waits, whatever its priority', async () => {
    const name = await queue();
    const { id } = await db.putOne({ queue: name, priority: 0 });
    await db.putOne({ queue: name, priority: 100 });
    await db.run("update tasklane.task set created_at = now() - interval '1 hour' where id = $1", [id]);
    const age = await db.value<bigint>('select oldest_waiting_ms from tasklane.queue_stats where queue = $1', [name]);
    assert.ok(age >= 3_600_000n && age < 3_700_000n);
  });
});

describe('a printed task id', () => {
  const parse = (text: string) => db.value<bigint | null>('select tasklane.parse_task_id($1)', [text]);

  test('spells the number, for any time, queue, level and mode', async () => {
    await fc.assert(
      fc.asyncProperty(
        // To the end of 2053.
        fc.bigInt({ min: 0n, max: 915_148_799n }),
        fc.bigInt({ min: 0n, max: 9_999_999_999n }),
        fc.integer({ min: 1, max: 2 ** 31 - 1 }),
        fc.integer({ min: 0, max: 99 }),
        fc.constantFrom('blocking', 'streaming', 'callback', 'batch'),
        async (seconds, number, queueId, level, mode) => {
          const id = seconds * 10n ** 10n + number;
          const printed = await db.value<string>('select tasklane.print_task_id($1, $2, $3, $4)', [
            id,
            queueId,
            level,
            mode,
          ]);
          assert.match(printed, /^TASK-\d+-\d+-[BSCP]-\d{12}-\d{4}-\d{6}$/);
          assert.equal(await parse(printed), id);
        },
      ),
    );
  });

  test('does not depend on the time zone of the session', async () => {
    const print = () => db.value<string>("select tasklane.print_task_id(0, 1, 2, 'batch')");
    await db.run("set timezone = 'Asia/Tokyo'");
    assert.equal(await print(), 'TASK-1-2-P-250101000000-0000-000000');
    assert.equal(await parse(await print()), 0n);
    await db.run('reset timezone');
  });

  test('of a time that never is, or anything else, is null', async () => {
    for (const time of [
      '250230120000',
      '251301000000',
      '250001000000',
      '250100000000',
      '250101240000',
      '250101236000',
      '250101235960',
      '241231235959',
      '990101000000',
    ])
      assert.equal(await parse(`TASK-1-0-C-${time}-0000-000001`), null, time);
    const good = 'TASK-1-0-C-250102030405-0000-000001';
    assert.equal(await parse(good), 97_445n * 10n ** 10n + 1n);
    for (const junk of [
      '',
      'TASK',
      good.slice(1),
      `${good}0`,
      ` ${good}`,
      `${good}\n`,
      good.replace('C', 'X'),
      good.replace('-0-', '-100-'),
      good.toLowerCase(),
      good.replace('2501', '٢٥٠١'),
    ])
      assert.equal(await parse(junk), null, junk);
    assert.equal(await db.value('select tasklane.parse_task_id(null)'), null);
    await fc.assert(
      fc.asyncProperty(fc.string(), async (text) => assert.equal(await parse(text.replaceAll('\0', '')), null)),
    );
  });
});
