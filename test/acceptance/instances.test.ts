import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import pg from 'pg';
import { createDatabase } from '../support/database.ts';
import { type Json, type Server, startServer } from '../support/server.ts';
import { askStream, openEventBus, progress, readStream, type Stream, talk, until } from './clients.ts';

/** Two servers on one database, and a person in psql beside them. */
let database: Awaited<ReturnType<typeof createDatabase>>;
let a: Server;
let b: Server;
let psql: pg.Client;
let queues = 0;

before(async () => {
  database = await createDatabase();
  a = await startServer({ url: database.url });
  b = await startServer({ url: database.url });
  psql = new pg.Client({ connectionString: database.url });
  await psql.connect();
});
after(async () => {
  await psql?.end();
  await Promise.all([a?.stop(), b?.stop()]);
  await database?.drop();
});

async function queue(settings: object = {}): Promise<string> {
  const name = `q${++queues}`;
  await talk(a).register(name, settings);
  return name;
}

const sql = async (text: string, values: unknown[] = []): Promise<Json[]> => (await psql.query(text, values)).rows;
const emitInPsql = (taskId: string, data: unknown) =>
  sql(`select tasklane.emit_event($1, 'chunk', $2)`, [taskId, JSON.stringify(data)]);
const datas = (stream: Stream) => stream.events.filter(({ event }) => event === 'chunk').map(({ data }) => data);
const numbers = (count: number) => Array.from({ length: count }, (_, n) => n + 1);

describe('a blocking client on one server', () => {
  test('gets the answer of a worker on another', async () => {
    const name = await queue();
    const asked = talk(a).ask(name, { data: { question: 1 } });
    const task = await talk(b).takeOne(name);
    assert.equal(task.instance_id, a.instance);
    assert.deepEqual(task.data, { question: 1 });
    await talk(b).complete(task.task_id, { answer: 42 }, 201);
    const answer = await asked;
    assert.equal(answer.status, 201);
    assert.equal(answer.text, '{"answer":42}');
    assert.equal(answer.headers.get('x-task-id'), task.task_id);
  });

  test('gets the answer that somebody gives in psql', async () => {
    const name = await queue();
    const asked = talk(a).ask(name);
    const task = await until(
      'the task waits',
      async () => (await sql('select * from tasklane.take($1)', [`${name}:0`]))[0],
    );
    await sql(`select tasklane.complete($1, 200, '{"by": "hand"}')`, [task.task_id]);
    const answer = await asked;
    assert.equal(answer.status, 200);
    assert.equal(answer.text, '{"by": "hand"}');
  });

  test('is told at once when another server, or psql, cancels its task', async () => {
    const name = await queue();
    const cancels = [
      (id: string) => b.request('POST', `/v1/queue/${id}/cancel`),
      (id: string) => sql('select tasklane.cancel($1)', [id]),
    ];
    for (const cancel of cancels) {
      const asked = talk(a).ask(name);
      await cancel((await talk(b).takeOne(name)).task_id);
      const answer = await asked;
      assert.equal(answer.status, 499);
      assert.equal(answer.json.code, 499);
    }
  });

  test('cancels its task for workers everywhere when it hangs up', async () => {
    const name = await queue();
    const client = new AbortController();
    const asked = talk(a).ask(name, {}, { signal: client.signal });
    const { task_id: id } = await talk(b).takeOne(name);
    client.abort();
    await assert.rejects(asked, { name: 'AbortError' });
    await until('the task is cancelled', async () => (await talk(b).task(id)).status === 'cancelled');
    const late = await b.request('POST', `/v1/queue/${id}/complete`, { status_code: 200, body: {} });
    assert.equal(late.status, 409);
    assert.match(late.json.message, /cancelled/);
  });

  test('is one of 100 that get each their own answer from workers on both', async () => {
    const name = await queue();
    const asked = numbers(100).map((n) => talk(n % 2 ? a : b).ask(name, { data: { n } }));
    let left = asked.length;
    await Promise.all(
      [a, b, a, b].map(async (server) => {
        while (left > 0)
          for (const task of await talk(server).take(name, { size: 5 })) {
            left--;
            await talk(server).complete(task.task_id, task.data);
          }
      }),
    );
    const answers = await Promise.all(asked);
    assert.deepEqual(
      answers.map((answer) => answer.json.n),
      numbers(100),
    );
  });
});

describe('a stream on one server', () => {
  test('shows what comes over another by HTTP, by WebSocket and from psql, once and in order', async () => {
    const name = await queue();
    const stream = await askStream(a, name);
    const { task_id: id } = await talk(b).takeOne(name);
    assert.equal(id, stream.taskId);
    const bus = await openEventBus(b);
    const ways = [
      async (n: number) => assert.deepEqual(await talk(b).emit([progress(id, n)]), [{ ok: true, taskId: id }]),
      async (n: number) => assert.deepEqual(await bus.send(progress(id, n)), { ok: true, taskId: id }),
      async (n: number) => assert.equal((await emitInPsql(id, n))[0].emit_event, n),
    ];
    for (const n of numbers(60)) await ways[n % 3]?.(n);
    const done = await bus.send({
      name: 'task-completion-event',
      payload: { taskId: id, result: { status_code: 200, request_id: 'r-1', body: { all: 60 } } },
    });
    assert.deepEqual(done, { ok: true, taskId: id });
    bus.close();
    await stream.ended;
    assert.deepEqual(datas(stream), numbers(60));
    assert.deepEqual(stream.events.at(-1), {
      id: undefined,
      event: 'completion',
      data: { status_code: 200, request_id: 'r-1', body: { all: 60 } },
    });
    assert.equal(stream.events.length, 61);
  });

  test('shows an event at once, before the next one is sent', async () => {
    const name = await queue();
    const stream = await askStream(a, name);
    const { task_id: id } = await talk(b).takeOne(name);
    for (const n of numbers(20)) {
      if (n % 2) await talk(b).emit([progress(id, n)]);
      else await emitInPsql(id, n);
      await stream.atLeast(n);
    }
    await talk(b).complete(id);
    await stream.ended;
    assert.deepEqual(datas(stream), numbers(20));
  });

  test('loses, repeats and turns round nothing when three emitters send 2,000 events for five tasks on two servers', async () => {
    const name = await queue();
    const streams = await Promise.all(numbers(5).map((n) => askStream(n % 2 ? a : b, name)));
    const tasks = await talk(b).take(name, { size: 5 });
    assert.equal(tasks.length, 5);
    const bus = await openEventBus(b);
    const perTask = 136;
    const ids = tasks.map((task) => task.task_id);
    const emitters: Record<string, (n: number) => Promise<unknown>> = {
      async http(n) {
        const four = [n - 3, n - 2, n - 1, n];
        if (n % 4 === 0)
          await talk(a).emit(ids.flatMap((id) => four.map((one) => progress(id, { from: 'http', n: one }))));
      },
      socket: (n) => Promise.all(ids.map((id) => bus.send(progress(id, { from: 'socket', n })))),
      psql: (n) =>
        sql(`select tasklane.emit_event(id, 'chunk', $2) from unnest($1::text[]) id`, [
          ids,
          JSON.stringify({ from: 'psql', n }),
        ]),
    };
    await Promise.all(
      Object.values(emitters).map(async (emit) => {
        for (const n of numbers(perTask)) await emit(n);
      }),
    );
    await Promise.all(ids.map((id) => talk(b).complete(id)));
    bus.close();
    await Promise.all(streams.map((stream) => stream.ended));
    for (const stream of streams) {
      assert.equal(datas(stream).length, 3 * perTask);
      assert.deepEqual(
        stream.events.slice(0, -1).map(({ id }) => id),
        numbers(3 * perTask).map(String),
      );
      for (const from of Object.keys(emitters))
        assert.deepEqual(
          datas(stream)
            .filter((data) => data.from === from)
            .map((data) => data.n),
          numbers(perTask),
        );
      assert.equal(stream.events.at(-1)?.event, 'completion');
    }
  });

  test('has the same events for a further reader on another, from the first to the last', async () => {
    const name = await queue();
    const stream = await askStream(a, name);
    const { task_id: id } = await talk(a).takeOne(name);
    for (const n of numbers(10)) await talk(a).emit([progress(id, n)]);
    const further = await readStream(b, id);
    await further.atLeast(10);
    for (const n of numbers(10)) await talk(n % 2 ? a : b).emit([progress(id, 10 + n)]);
    await further.atLeast(20);
    await talk(a).complete(id);
    await Promise.all([stream.ended, further.ended]);
    assert.deepEqual(datas(further), numbers(20));
    assert.deepEqual(further.events, stream.events);
    const later = await readStream(b, id);
    await later.ended;
    assert.deepEqual(later.events, stream.events);
  });

  test('goes on over another where it stopped when its server is killed', async (t) => {
    const name = await queue();
    const doomed = await startServer({ url: database.url });
    t.after(() => doomed.kill());
    const stream = await askStream(doomed, name);
    const { task_id: id } = await talk(b).takeOne(name);
    for (const n of numbers(5)) await talk(b).emit([progress(id, n, `event-${n}`)]);
    await stream.atLeast(3);
    await doomed.kill('SIGKILL');
    await stream.ended;
    const seen = stream.events.length;
    for (const n of [6, 7]) await emitInPsql(id, n);
    const resumed = await readStream(b, id, stream.events.at(-1)?.id);
    await resumed.atLeast(7 - seen);
    await talk(a).emit([progress(id, 8)]);
    await talk(a).complete(id, { whole: true });
    await resumed.ended;
    assert.deepEqual([...datas(stream), ...datas(resumed)], numbers(8));
    assert.deepEqual(resumed.events.at(-1)?.data.body, { whole: true });
  });
});

describe('a long poll on one server', () => {
  test('is woken by a put on another', async () => {
    const name = await queue();
    for (const n of numbers(20)) {
      const parked = talk(b).take(name, { wait: 30 });
      const id = await talk(a).put(name, { data: { n } });
      assert.deepEqual(
        (await parked).map((task) => task.task_id),
        [id],
      );
    }
  });

  test('is woken by a put in psql', async () => {
    const name = await queue();
    for (const n of numbers(20)) {
      const parked = talk(n % 2 ? a : b).take(name, { wait: 30 });
      const [{ put }] = await sql('select tasklane.put($1, $2)', [name, `{"n": ${n}}`]);
      assert.deepEqual(
        (await parked).map((task) => task.task_id),
        [put],
      );
    }
  });

  test('in sequence is woken when the running task ends on another', async () => {
    const name = await queue();
    await talk(a).puts(name, 2);
    const first = await talk(a).takeOne(name, { strategy: 'sequential' });
    const parked = talk(b).takeOne(name, { strategy: 'sequential' });
    await talk(a).complete(first.task_id);
    assert.deepEqual((await parked).data, { n: 1 });
  });
});

test('takers on both servers get every task of the same lanes, and none twice', async () => {
  const names = [await queue(), await queue(), await queue()];
  const put = new Set<string>();
  for (const name of names) for (const id of await talk(a).puts(name, 1000)) put.add(id);
  const taken: string[] = [];
  const strategies = ['fifo', 'round_robin', 'active_passive'];
  await Promise.all(
    numbers(12).map(async (nth) => {
      while (taken.length < put.size) {
        const answer = await (nth % 2 ? a : b).request('POST', '/v1/queue/take', {
          queues: names.map((name) => `${name}:0`),
          size: [1, 7, 40][nth % 3],
          strategy: strategies[(nth >> 1) % 3],
        });
        assert.equal(answer.status, 200);
        for (const tasks of Object.values<Json[]>(answer.json)) taken.push(...tasks.map((task) => task.task_id));
      }
    }),
  );
  assert.equal(taken.length, put.size);
  assert.deepEqual(new Set(taken), put);
});

test('a key revoked on one server is refused on the other', async () => {
  const made = await a.request('POST', '/v1/keys', { role: 'worker' });
  const ask = () => b.request('GET', '/v1/queues', undefined, { key: made.json.key });
  assert.equal((await ask()).status, 200);
  assert.equal((await a.request('DELETE', `/v1/keys/${made.json.id}`)).status, 204);
  await until('the key is refused', async () => (await ask()).status === 401, 4000);
});

test('everything arrives when the listening connections are cut in the middle', async () => {
  const name = await queue();
  const other = await queue();
  const empty = await queue();
  const asked = talk(a).ask(other);
  const stream = await askStream(a, name);
  const { task_id: id } = await talk(b).takeOne(name);
  const question = await talk(b).takeOne(other);
  const parked = talk(a).takeOne(empty);
  const cut = async () =>
    (
      await sql(`select pg_terminate_backend(pid) from pg_stat_activity
                 where application_name = 'tasklane listen' and datname = current_database()`)
    ).length;
  assert.equal(await cut(), 2);
  for (const n of numbers(50)) {
    await talk(b).emit([progress(id, n)]);
    if (n % 10 === 0) await cut();
  }
  await cut();
  await talk(b).complete(question.task_id, { got: 'it' });
  const put = await talk(b).put(empty);
  await cut();
  await talk(b).complete(id);
  await stream.ended;
  assert.deepEqual(datas(stream), numbers(50));
  assert.equal((await asked).text, '{"got":"it"}');
  assert.equal((await parked).task_id, put);
  await until('both servers listen again', async () => {
    const [row] = await sql(`select count(*)::int as n from pg_stat_activity
                             where application_name = 'tasklane listen' and datname = current_database()`);
    return row.n === 2;
  });
});
