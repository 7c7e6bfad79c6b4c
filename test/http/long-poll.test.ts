import assert from 'node:assert/strict';
import { once } from 'node:events';
import { connect } from 'node:net';
import { after, before, describe, test } from 'node:test';
import pg from 'pg';
import { parseTaskId } from '../../server/protocol/ids.ts';
import { startServer, until } from '../support/server.ts';
import { Session } from '../support/sql.ts';
import { CHAT, EMBED, fixture } from './fixture.ts';

const f = fixture();

/** A take that waits; gives the ids of what it was handed. */
const waiting = (lanes: string | string[], more: object = {}) =>
  f.take(lanes, { wait: 20, ...more }).then((tasks) => tasks.map((task) => task.task_id));

/** Resolves once the server has seen everything that was sent to it before, by a call that comes after it. */
const settled = () => f.client('GET', '/v1/queues');

describe('a take that waits', { concurrency: true }, () => {
  // Takes also look by themselves once a second, which would hide a lost wake-up; the server counts when that found something.
  after(async () => {
    assert.match((await f.admin('GET', '/metrics')).text, /^tasklane_late_takes_total 0$/m);
  });

  test('is answered as soon as a task is put', async () => {
    const queue = await f.queue();
    const take = waiting(`${queue}:0`);
    await settled();
    const id = await f.put(queue);
    const ids = await take;
    assert.deepEqual(ids, [id]);
  });

  test('is answered by a put to any of its lanes, of any priority and strategy', async () => {
    for (const strategy of ['fifo', 'round_robin', 'active_passive', 'sequential']) {
      const [a, b] = [await f.queue(), await f.queue()];
      // A head that is known, and a put that comes before it in the lane's order.
      await f.put(b, { level: 5, priority: 5 });
      await f.take(`${b}:5`);
      if (strategy === 'sequential') {
        const { json } = await f.client('GET', `/v1/tasks?queue=${b}&status=running`);
        await f.complete(json.data[0].task_id);
      }
      const take = waiting([`${a}:0`, `${b}:5`], { strategy });
      await settled();
      const id = await f.put(b, { level: 5, priority: 100 });
      const ids = await take;
      assert.deepEqual(ids, [id], strategy);
    }
  });

  test('with an endpoint is answered by a put to a queue of that endpoint', async () => {
    const [chat, embed] = [await f.queue(CHAT), await f.queue(EMBED)];
    const take = waiting([`${chat}:0`, `${embed}:0`], { endpoint: EMBED });
    await settled();
    await f.put(chat);
    const id = await f.put(embed, { endpoint: EMBED });
    const ids = await take;
    assert.deepEqual(ids, [id]);
  });

  test('is answered though others, who may not have the task, have waited longer', async () => {
    const queue = await f.queue();
    const gone = new AbortController();
    const others = [{ endpoint: EMBED }, { min_age_seconds: 3600 }].map((more) =>
      f.worker(
        'POST',
        '/v1/queue/take',
        { queues: [`${queue}:0`], size: 1, wait: 20, ...more },
        { signal: gone.signal },
      ),
    );
    await settled();
    const take = waiting(`${queue}:0`);
    await settled();
    const id = await f.put(queue);
    const ids = await take;
    assert.deepEqual(ids, [id]);
    gone.abort();
    await Promise.allSettled(others);
  });

  test('in sequence is answered as soon as the running task of its queue ends', async () => {
    const queue = await f.queue();
    const ids = [await f.put(queue), await f.put(queue), await f.put(queue), await f.put(queue)];
    await f.take(`${queue}:0`, { strategy: 'sequential' });
    const ends = [
      (id: string) => f.complete(id),
      (id: string) => f.client('POST', `/v1/queue/${id}/cancel`),
      (id: string) => f.complete(id, null, { status_code: 500 }),
    ];
    for (const [n, end] of ends.entries()) {
      const take = waiting(`${queue}:0`, { strategy: 'sequential' });
      await settled();
      await end(ids[n] as string);
      assert.deepEqual(await take, [ids[n + 1]]);
    }
  });

  test('gets one task each when as many are put as wait', async () => {
    const queue = await f.queue();
    const takes = Array.from({ length: 30 }, () => waiting(`${queue}:0`));
    await settled();
    const put = await Promise.all(Array.from({ length: 30 }, () => f.put(queue)));
    const answers = await Promise.all(takes);
    assert.deepEqual(answers.flat().sort(), put.sort());
  });

  test('answers an empty object at the end of its wait', async () => {
    const queue = await f.queue();
    const from = performance.now();
    const answer = await f.worker('POST', '/v1/queue/take', { queues: [`${queue}:0`], size: 1, wait: 1 });
    const ms = performance.now() - from;
    assert.deepEqual([answer.status, answer.text], [200, '{}']);
    assert.ok(ms >= 990, `${Math.round(ms)} ms`);
  });

  test('answers at once when there is something already', async () => {
    const queue = await f.queue();
    const id = await f.put(queue);
    const ids = await waiting(`${queue}:0`, { size: 1000 });
    assert.deepEqual(ids, [id]);
  });
});

describe('over two servers', () => {
  /** What servers say to each other from now on. */
  const overhear = async () => {
    const listener = new pg.Client({ connectionString: f.server.databaseUrl });
    await listener.connect();
    const messages: { wake?: [string, number, string, number][]; asleep?: string[]; ended?: string[] }[] = [];
    const answers: string[][] = [];
    listener.on('notification', ({ channel, payload }) => {
      const message = JSON.parse(payload as string);
      if (channel === 'tasklane') messages.push(message);
      else answers.push(message);
    });
    const { rows } = await listener.query('select answer_channel from tasklane.instance');
    for (const channel of ['tasklane', ...rows.map((row) => row.answer_channel)])
      await listener.query(`listen ${channel}`);
    return {
      wakes: () => messages.flatMap((message) => message.wake ?? []),
      heard: (what: 'asleep' | 'ended') => messages.flatMap((message) => message[what] ?? []),
      answers,
      query: (text: string, values: unknown[]) => listener.query(text, values),
      close: () => listener.end(),
    };
  };

  test('a take that sleeps at one is answered as soon as a task is put at the other', async () => {
    const second = await f.second();
    const queue = await f.queue();
    for (let round = 0; round < 5; round++) {
      const answer = second.request('POST', '/v1/queue/take', { queues: [`${queue}:0`], size: 1, wait: 20 });
      await second.request('GET', '/v1/queues');
      const id = await f.put(queue);
      assert.equal((await answer).json[`${queue}:0`][0].task_id, id);
    }
    for (const server of [second, f.server])
      assert.match((await server.request('GET', '/metrics')).text, /^tasklane_late_takes_total 0$/m);
  });

  test('a take that sleeps at one and a client that waits at the other are told once each', async () => {
    const second = await f.second();
    const queue = await f.queue();
    const lane = `${queue}:0`;
    const { wakes, heard, answers, close } = await overhear();
    const take = f.takeOne(lane);
    await until(async () => heard('asleep').includes(lane));
    const asked = { queue, endpoint: CHAT, data: {}, response_mode: 'blocking' };
    const answer = second.request('POST', '/v1/queue/put', asked);
    const { task_id: taskId } = await take;
    await f.complete(taskId, { n: 1 });
    assert.deepEqual((await answer).json, { n: 1 });
    const ids = wakes().flatMap(([there, , id]) => (there === lane ? [id] : []));
    assert.equal(ids.length, 1);
    await f.put(queue);
    await until(async () => wakes().filter(([there]) => there === lane).length === 2);
    const told = answers.filter(([id]) => id === ids[0]);
    assert.deepEqual(told, [[ids[0], 'succeeded', 200, '{"n":1}', null]]);
    assert.ok(!heard('ended').includes(ids[0] as string));
    await close();
  });

  test('a client that waits at the other gets its answer to the letter, whether or not a message has room for it', async () => {
    const second = await f.second();
    const { heard, answers, close } = await overhear();
    const longest = JSON.stringify({ said: '"'.repeat(1743) });
    assert.equal(longest.length, 3497);
    for (const [body, status, inMessage] of [
      ['{ "b" :\t[1.0e3,\n"\\u0000 \\"é😀\\\\" ] }', 200, true],
      ['null', 200, true],
      ['{"why":"full"}', 503, true],
      [longest, 200, true],
      [longest.replace('said', 'said it'), 200, true],
      [longest.replace('said', 'says this'), 200, false],
      [JSON.stringify('x'.repeat(100_000)), 200, false],
    ] as const) {
      const queue = await f.queue();
      const asked = { queue, endpoint: CHAT, data: {}, response_mode: 'blocking' };
      const answer = second.request('POST', '/v1/queue/put', asked);
      const { task_id: taskId } = await f.takeOne(`${queue}:0`);
      await f.server.request('POST', `/v1/queue/${taskId}/complete`, `{"status_code":${status},"body":${body}}`);
      const { status: got, text } = await answer;
      assert.deepEqual([got, text], [status, body]);
      const { json } = await f.client('GET', `/v1/queue/${taskId}`);
      assert.equal(json.status, status === 200 ? 'succeeded' : 'failed');
      const id = parseTaskId(taskId) as string;
      const told = () => [answers.some(([there]) => there === id), heard('ended').includes(id)];
      await until(async () => told().includes(true));
      assert.deepEqual(told(), [inMessage, !inMessage], body.slice(0, 30));
    }
    await close();
  });

  test('a client is not told an answer by somebody who does not know where its server hears of them', async () => {
    const second = await f.second();
    const { query, close } = await overhear();
    const queue = await f.queue();
    const asked = { queue, endpoint: CHAT, data: {}, response_mode: 'blocking' };
    const answer = second.request('POST', '/v1/queue/put', asked);
    const { task_id: taskId } = await f.takeOne(`${queue}:0`);
    const forged = [parseTaskId(taskId), 'succeeded', 200, '"forged"'];
    for (const message of [forged, { answered: [forged] }, { from: 0, ended: [forged] }]) {
      await query('select pg_notify($1, $2)', ['tasklane', JSON.stringify(message)]);
    }
    await f.complete(taskId, 'true');
    const { json } = await answer;
    assert.equal(json, 'true');
    const { rows } = await query('select distinct answer_channel as channel from tasklane.instance', []);
    assert.equal(rows.length, 2);
    for (const { channel } of rows) assert.match(channel, /^tasklane_[0-9a-f]{32}$/);
    await close();
  });

  test('what no take sleeps for is said in few messages, and completely', async () => {
    await f.second();
    const queue = await f.queue();
    const { wakes, close } = await overhear();
    const count = 50;
    for (let n = 0; n < count; n++) await f.put(queue);
    const own = () => wakes().filter(([lane]) => lane === `${queue}:0`);
    await until(async () => own().reduce((sum, wake) => sum + wake[3], 0) === count);
    assert.ok(own().length <= count / 5, `${own().length} messages for ${count} puts`);
    await close();
  });
});

/** Takes ten tasks, and hangs up once the answer has begun. */
const cutTake = async (url: string, key: string, queue: string) => {
  const body = JSON.stringify({ queues: [`${queue}:0`], size: 10 });
  const socket = connect(Number(new URL(url).port), '127.0.0.1');
  const head = `POST /v1/queue/take HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer ${key}\r\n`;
  socket.write(`${head}Content-Length: ${body.length}\r\n\r\n${body}`);
  const [first] = await once(socket, 'data');
  assert.match(String(first), /^HTTP\/1\.1 200 OK/);
  socket.destroy();
};

describe('a worker that is gone before the answer to its take', { concurrency: true }, () => {
  /** The attempt is that of the take that gets the task: 1, if the lost one left no trace. */
  const comesBack = async (queue: string, id: string) => {
    const task = await f.takeOne(`${queue}:0`);
    assert.deepEqual([task.task_id, task.attempt], [id, 1]);
  };

  test('while it waits, takes nothing', async () => {
    const queue = await f.queue();
    const gone = new AbortController();
    const take = f.worker(
      'POST',
      '/v1/queue/take',
      { queues: [`${queue}:0`], size: 1, wait: 20 },
      { signal: gone.signal },
    );
    await settled();
    gone.abort();
    await assert.rejects(take);
    await comesBack(queue, await f.put(queue));
  });

  test('while a put comes, leaves the task as if it had not been taken', async () => {
    for (let round = 0; round < 20; round++) {
      const queue = await f.queue();
      const gone = new AbortController();
      const take = f.worker(
        'POST',
        '/v1/queue/take',
        { queues: [`${queue}:0`], size: 1, wait: 20 },
        { signal: gone.signal },
      );
      await settled();
      const [, id] = await Promise.all([
        assert.rejects(take),
        f.put(queue),
        Promise.resolve().then(() => gone.abort()),
      ]);
      await comesBack(queue, id);
    }
  });

  test('just after it asked, leaves all tasks as if they had not been taken', async () => {
    const queue = await f.queue();
    const tasks = Array.from({ length: 300 }, (_, n) => ({
      queue,
      endpoint: CHAT,
      data: { n, text: 'x'.repeat(5000) },
    }));
    const { json } = await f.client('POST', '/v1/queue/puts', { tasks });
    const body = JSON.stringify({ queues: [`${queue}:0`], size: 30 });
    const head = `POST /v1/queue/take HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer ${f.keys.worker}\r\n`;
    await Promise.all(
      Array.from({ length: 10 }, async () => {
        const socket = connect(Number(new URL(f.server.url).port), '127.0.0.1');
        await once(socket, 'connect');
        socket.write(`${head}Content-Length: ${body.length}\r\n\r\n${body}`, () => socket.resetAndDestroy());
        await once(socket, 'close');
      }),
    );
    const back: { task_id: string; attempt: number }[] = [];
    await until(async () => {
      back.push(...(await f.take(`${queue}:0`, { size: 1000, wait: 1 })));
      return back.length === 300;
    });
    assert.deepEqual(back.map((task) => task.task_id).sort(), json.data.sort());
    assert.deepEqual(new Set(back.map((task) => task.attempt)), new Set([1]));
  });

  test('in the middle of the answer, leaves all tasks as if they had not been taken', async () => {
    const queue = await f.queue();
    // More than the kernel's buffers hold, so that the server is still writing when the first bytes arrive.
    const ids: string[] = [];
    for (let n = 0; n < 4; n++) ids.push(await f.put(queue, { data: { text: 'x'.repeat(5_000_000) } }));
    await cutTake(f.server.url, f.keys.worker, queue);
    const back: { task_id: string; attempt: number }[] = [];
    await until(async () => {
      back.push(...(await f.take(`${queue}:0`, { size: 10, wait: 1 })));
      return back.length === 4;
    });
    assert.deepEqual(
      back.map((task) => [task.task_id, task.attempt]),
      ids.map((id) => [id, 1]),
    );
  });

  test('leaves its tasks to another that waits, at once', async () => {
    const queue = await f.queue();
    const gone = new AbortController();
    const first = f.worker(
      'POST',
      '/v1/queue/take',
      { queues: [`${queue}:0`], size: 1, wait: 20 },
      { signal: gone.signal },
    );
    await settled();
    const second = waiting(`${queue}:0`);
    await settled();
    const id = f.put(queue);
    gone.abort();
    await assert.rejects(first);
    const ids = await second;
    assert.deepEqual(ids, [await id]);
  });
});

test('a server that can not put tasks back says so, and goes on', async () => {
  const server = await startServer();
  const psql = new pg.Client({ connectionString: server.databaseUrl });
  await psql.connect();
  try {
    await server.request('POST', '/v1/queue/register', { queue: 'q', endpoint: CHAT });
    const large = { queue: 'q', endpoint: CHAT, data: { text: 'x'.repeat(5_000_000) } };
    for (let n = 0; n < 4; n++) await server.request('POST', '/v1/queue/put', large);
    await psql.query('alter function tasklane.return_tasks rename to moved_away');
    await cutTake(server.url, server.adminKey, 'q');
    await until(async () => {
      assert.equal((await server.request('GET', '/health')).status, 200);
      return server.stderr.includes('could not put tasks back');
    });
  } finally {
    await psql.end();
    await server.stop();
  }
});

// The last here: takes that find something only by looking are what the others have none of.
describe('a task that comes to wait below the head of its lane, of which no server is told', () => {
  /** A lane with a head, and nothing in it but such a task. */
  const hidden = async () => {
    const queue = await f.queue();
    await f.put(queue, { priority: 5 });
    await f.takeOne(`${queue}:0`);
    const { task_id: id } = await psql.putOne({ queue, priority: 100 });
    return { lane: `${queue}:0`, id };
  };
  let psql: Session;
  before(async () => {
    psql = await new Session(f.server.databaseUrl).open();
  });
  after(() => psql.client.end());

  test('is found by a take that waits', async () => {
    const { lane, id } = await hidden();
    const taken = await f.takeOne(lane, { wait: 20 });
    assert.equal(taken.task_id, id);
  });

  test('is found by takes that do not', async () => {
    const { lane, id } = await hidden();
    const taken = await until(async () => (await f.take(lane))[0]);
    assert.equal(taken.task_id, id);
  });
});
