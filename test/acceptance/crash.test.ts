import assert from 'node:assert/strict';
import { once } from 'node:events';
import { existsSync, rmSync } from 'node:fs';
import { chmod, mkdtemp, readFile, rm } from 'node:fs/promises';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import pg from 'pg';
import { killPostmaster, postmasterPid } from '../../scripts/chaos/postmaster.ts';
import { type Receiver, startReceiver } from '../callbacks/receiver.ts';
import { createDatabase } from '../support/database.ts';
import { runServer, type Server, startServer } from '../support/server.ts';
import { askStream, ENDPOINT, progress, talk, until } from './clients.ts';

/** Puts one task after the other, `many` at a time, until told to stop; keeps every id that was acknowledged. */
function putUnderLoad(server: Server, queue: string, many: number) {
  const acknowledged: string[] = [];
  const refusals: { status: number; retryAfter: string | null }[] = [];
  let going = true;
  const putter = async () => {
    while (going) {
      try {
        const answer = await server.request('POST', '/v1/queue/put', { queue, endpoint: ENDPOINT, data: {} });
        if (answer.status === 200) acknowledged.push(answer.json.data);
        else refusals.push({ status: answer.status, retryAfter: answer.headers.get('retry-after') });
      } catch {
        // The server is gone: nothing was acknowledged.
        return;
      }
    }
  };
  const ended = Promise.all(Array.from({ length: many }, putter));
  return {
    acknowledged,
    refusals,
    atLeast: (count: number) => until(`${count} puts are acknowledged`, async () => acknowledged.length >= count),
    stop: async () => {
      going = false;
      await ended;
    },
  };
}

async function takeAll(server: Server, queue: string): Promise<string[]> {
  const ids: string[] = [];
  for (;;) {
    const tasks = await talk(server).take(queue, { size: 1000 });
    if (tasks.length === 0) return ids;
    ids.push(...tasks.map((task) => task.task_id));
  }
}

function assertEachOnce(taken: string[], acknowledged: string[]): void {
  const there = new Set(taken);
  assert.equal(there.size, taken.length, 'a task is there twice');
  assert.deepEqual(
    acknowledged.filter((id) => !there.has(id)),
    [],
    'acknowledged tasks are missing',
  );
}

describe('a server killed with kill -9', () => {
  let database: Awaited<ReturnType<typeof createDatabase>>;
  before(async () => {
    database = await createDatabase();
  });
  after(() => database?.drop());

  test('has left a task that it acknowledged, for the next one to hand out', async (t) => {
    const first = await startServer({ url: database.url });
    t.after(() => first.kill());
    await talk(first).register('kept');
    const id = await talk(first).put('kept', { data: { kept: true } });
    await first.kill('SIGKILL');
    const second = await startServer({ url: database.url });
    try {
      const task = await talk(second).takeOne('kept');
      assert.equal(task.task_id, id);
      assert.deepEqual(task.data, { kept: true });
      assert.deepEqual(await talk(second).take('kept', { size: 10 }), []);
      await talk(second).complete(id);
      assert.equal((await talk(second).task(id)).status, 'succeeded');
    } finally {
      await second.stop();
    }
  });

  test('under load has left every task that it acknowledged, each once', async (t) => {
    const first = await startServer({ url: database.url });
    t.after(() => first.kill());
    await talk(first).register('loaded');
    const load = putUnderLoad(first, 'loaded', 64);
    await load.atLeast(1000);
    await first.kill('SIGKILL');
    await load.stop();
    const second = await startServer({ url: database.url });
    try {
      assertEachOnce(await takeAll(second, 'loaded'), load.acknowledged);
    } finally {
      await second.stop();
    }
  });
});

describe('a server with the embedded Postgres', () => {
  let dataDir: string;
  let server: Server;
  let receiver: Receiver;
  const pidFile = () => join(dataDir, 'postgres', 'postmaster.pid');
  const postmaster = () => postmasterPid(dataDir);
  const start = (env: Record<string, string> = {}) =>
    startServer({ url: '', env: { TASKLANE_DATA_DIR: dataDir, ...env } });
  // Only after the server, which would start it again.
  const endLeftover = () => {
    void server?.kill('SIGKILL');
    killPostmaster(dataDir);
    rmSync(dataDir, { recursive: true, force: true });
  };

  before(async () => {
    dataDir = await mkdtemp(join(tmpdir(), 'tasklane-crash-'));
    // As root, Postgres runs as a user who must be able to enter the folder.
    await chmod(dataDir, 0o711);
    process.once('exit', endLeftover);
    receiver = await startReceiver();
    server = await start();
    await talk(server).register('q');
  });
  after(async () => {
    await server?.kill('SIGTERM');
    await receiver?.close();
    process.off('exit', endLeftover);
    await rm(dataDir, { recursive: true, force: true });
  });

  test('loses nothing that it acknowledged when Postgres is killed under load, and recovers by itself', async (t) => {
    for (const queue of ['asked', 'streamed', 'polled']) await talk(server).register(queue);
    const asked = talk(server).ask('asked');
    const stream = await askStream(server, 'streamed');
    const questions = [await talk(server).takeOne('asked'), await talk(server).takeOne('streamed')];
    await talk(server).emit([progress(stream.taskId, 1)]);
    const parked = Promise.all(Array.from({ length: 20 }, () => talk(server).takeOne('polled', { wait: 60 })));

    const load = putUnderLoad(server, 'q', 32);
    t.after(() => load.stop());
    await load.atLeast(500);
    // Several times, so that all that waits looks at least once while Postgres is not there.
    for (let kills = 0; kills < 3; kills++) {
      const refused = load.refusals.length;
      const killed = killPostmaster(dataDir);
      await until('puts are refused', async () => load.refusals.length > refused);
      await until('Postgres starts again', async () => ![killed, undefined].includes(postmaster()));
    }
    const before = load.acknowledged.length;
    await load.atLeast(before + 500);
    await load.stop();

    for (const refusal of load.refusals) {
      assert.equal(refusal.status, 503);
      assert.ok(Number(refusal.retryAfter) >= 1);
    }
    await until('health is back', async () => (await server.request('GET', '/health')).status === 200);
    assertEachOnce(await takeAll(server, 'q'), load.acknowledged);

    await talk(server).emit([progress(stream.taskId, 2)]);
    for (const question of questions) await talk(server).complete(question.task_id, { after: 'all' });
    assert.equal((await asked).text, '{"after":"all"}');
    await stream.ended;
    assert.deepEqual(
      stream.events.map(({ event, data }) => (event === 'chunk' ? data : data.body)),
      [1, 2, { after: 'all' }],
    );
    const called = await talk(server).put('asked', { callback_url: receiver.url() });
    await talk(server).takeOne('asked');
    await talk(server).complete(called);
    const delivery = await receiver.next();
    delivery.answer(200);
    assert.equal(delivery.headers['x-task-id'], called);
    const put = await talk(server).puts('polled', 20);
    const polled = (await parked).map((task) => task.task_id);
    assert.deepEqual(polled.sort(), put.sort());
  });

  test('goes on with its background jobs when Postgres is killed in the middle of one', async () => {
    const connectionString = await readFile(join(dataDir, 'database.url'), 'utf8');
    const [holder, psql] = [new pg.Client({ connectionString }), new pg.Client({ connectionString })];
    for (const client of [holder, psql]) {
      client.on('error', () => undefined);
      await client.connect();
    }
    await talk(server).register('called');
    const called = await talk(server).put('called', { callback_url: receiver.url() });
    await holder.query('begin; lock table tasklane.callback_delivery');
    await psql.query("select graphile_worker.add_job('deliver_callbacks')");
    await until('the job hangs', async () => {
      const waits = "select from pg_locks where relation = 'tasklane.callback_delivery'::regclass and not granted";
      return (await psql.query(waits)).rowCount === 1;
    });
    const killed = killPostmaster(dataDir);
    await until('Postgres starts again', async () => ![killed, undefined].includes(postmaster()));
    await Promise.all([holder.end(), psql.end()]);

    await until('health is back', async () => (await server.request('GET', '/health')).status === 200);
    await talk(server).takeOne('called');
    await talk(server).complete(called);
    const delivery = await receiver.next();
    delivery.answer(200);
    assert.equal(delivery.headers['x-task-id'], called);
  });

  test('killed itself leaves its tasks to the next start on its folder', async () => {
    const id = await talk(server).put('q');
    const orphan = postmaster();
    await server.kill('SIGKILL');
    server = await start();
    assert.notEqual(postmaster(), orphan);
    assert.deepEqual(await takeAll(server, 'q'), [id]);
  });

  test('killed together with Postgres under keyed puts leaves no key without its task, and no second task for a key', async () => {
    await talk(server).register('keyed');
    const acknowledged: string[] = [];
    let used = 0;
    const put = async (n: number) => {
      const body = { queue: 'keyed', endpoint: ENDPOINT, data: { n }, idempotency_key: `key ${n}` };
      return server.request('POST', '/v1/queue/put', body);
    };
    const putter = async () => {
      for (;;) {
        const n = used++;
        const answer = await put(n).catch(() => undefined);
        if (!answer) return;
        if (answer.status === 200) acknowledged[n] = answer.json.data;
      }
    };
    const load = Promise.all(Array.from({ length: 32 }, putter));
    await until('some hundred keys are used', async () => used > 500);
    killPostmaster(dataDir);
    await server.kill('SIGKILL');
    await load;
    server = await start();

    const ids: string[] = [];
    for (let from = 0; from < used; from += 100) {
      const some = Array.from({ length: Math.min(100, used - from) }, (_, n) => put(from + n));
      for (const answer of await Promise.all(some)) {
        assert.equal(answer.status, 200, answer.text);
        ids.push(answer.json.data);
      }
    }
    for (const [n, id] of acknowledged.entries()) if (id !== undefined) assert.equal(ids[n], id);
    assertEachOnce(await takeAll(server, 'keyed'), ids);
  });

  test('refuses its folder to a second server, and tells that one who has it', async () => {
    const second = await runServer({ PORT: '0', TASKLANE_DATA_DIR: dataDir, TASKLANE_LOG_LEVEL: 'warn' });
    assert.equal(second.code, 1);
    assert.match(second.stderr, new RegExp(`in use by another Tasklane server \\(pid ${server.pid}, http://`));
    assert.equal((await server.request('GET', '/health')).status, 200);
  });

  test('stops on SIGTERM: polls answer at once, clients that wait get their answers, Postgres goes', async () => {
    const asked = talk(server).ask('asked');
    const stream = await askStream(server, 'streamed');
    const { task_id: id } = await talk(server).takeOne('asked');
    await talk(server).takeOne('streamed');
    const polls = Array.from({ length: 5 }, () =>
      server.request('POST', '/v1/queue/take', { queues: ['polled:0'], size: 1, wait: 60 }),
    );
    // The server takes no connections any more when it stops, so the worker answers in psql.
    const psql = new pg.Client({ connectionString: await readFile(join(dataDir, 'database.url'), 'utf8') });
    await psql.connect();
    const pid = postmaster() as number;
    const exited = server.kill('SIGTERM');
    for (const poll of await Promise.all(polls)) {
      assert.equal(poll.status, 200);
      assert.equal(poll.text, '{}');
    }
    for (const one of [id, stream.taskId])
      await psql.query(`select tasklane.complete($1, 200, '{"late": true}')`, [one]);
    await psql.end();
    const answer = await asked;
    assert.equal(answer.status, 200);
    assert.equal(answer.text, '{"late": true}');
    await stream.ended;
    assert.deepEqual(stream.events.at(-1)?.data.body, { late: true });
    assert.deepEqual(await exited, { code: 0, signal: null });
    assert.ok(!existsSync(pidFile()));
    assert.throws(() => process.kill(pid, 0), { code: 'ESRCH' });
    server = await start();
    assert.equal((await talk(server).task(id)).status, 'succeeded');
  });

  test('says so when its port is taken, and leaves no Postgres behind', async () => {
    await server.kill('SIGTERM');
    const squatter = createServer().listen(0, '127.0.0.1');
    await once(squatter, 'listening');
    try {
      const { port } = squatter.address() as AddressInfo;
      const second = await runServer({ PORT: String(port), TASKLANE_DATA_DIR: dataDir, TASKLANE_LOG_LEVEL: 'warn' });
      assert.equal(second.code, 1);
      assert.match(second.stderr, new RegExp(`port ${port} is taken`));
      assert.ok(!second.stdout.includes('listening on'));
      assert.ok(!existsSync(pidFile()));
    } finally {
      squatter.close();
    }
  });
});
