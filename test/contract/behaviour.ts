import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import type { Driver, NewTask, Taken } from './driver.ts';

const CHAT = '/v1/chat/completions';
const EMBED = '/v1/embeddings';
const NO_SUCH_TASK = 'TASK-1-0-C-250101000000-0000-000001';
// Numbers, escapes, key order, duplicate keys and white space that JSON.parse and back would change.
const LETTERS = '{"b": 1.0, "a":[12345678901234567890, 1e2,"\\u00e9\\/é😀"], "b":{"nested" :\t"\\"}"}}';

/** What Tasklane does, in whatever way one speaks to it. */
export function behaviour(transport: string, connect: () => Promise<Driver>): void {
  describe(`over ${transport}`, () => {
    let driver: Driver;
    let queues = 0;
    before(async () => {
      driver = await connect();
    });
    after(() => driver?.close());

    const queue = async (endpoint = CHAT): Promise<string> => {
      const name = `q${++queues}`;
      assert.equal(await driver.register(name, endpoint), 'ok');
      return name;
    };
    const put = async (task: Partial<NewTask>): Promise<string> => {
      const made = await driver.put({ endpoint: CHAT, ...task });
      assert.ok(typeof made === 'object', `put: ${made}`);
      return made.id;
    };
    const take = async (lanes: string[], options?: { size?: number; strategy?: string }): Promise<Taken[]> => {
      const taken = await driver.take(lanes, options);
      assert.ok(Array.isArray(taken), `take: ${taken}`);
      return taken;
    };
    const takeOne = async (lane: string): Promise<Taken> => {
      const [task] = await take([lane]);
      assert.ok(task, `nothing in ${lane}`);
      return task;
    };
    const ids = (tasks: Taken[]) => tasks.map((task) => task.id);
    const putMany = async (name: string, level: number, count: number) => {
      const made: string[] = [];
      for (let n = 0; n < count; n++) made.push(await put({ queue: name, level }));
      return made;
    };

    for (const mode of ['callback', 'blocking', 'streaming'] as const) {
      test(`a ${mode} task is put, taken and completed`, async () => {
        const name = await queue();
        const id = await put({ queue: name, level: 3, mode, data: '{"n":1}' });
        const letter = { callback: 'C', blocking: 'B', streaming: 'S' }[mode];
        assert.match(id, new RegExp(`^TASK-\\d+-3-${letter}-\\d{12}-\\d{4}-\\d{6}$`));
        assert.equal((await driver.task(id))?.status, 'waiting');

        const task = await takeOne(`${name}:3`);
        assert.deepEqual(task, { id, attempt: 1, queue: name, level: 3, mode, data: '{"n":1}' });
        assert.equal((await driver.task(id))?.status, 'running');

        assert.equal(await driver.complete(id, { status: 200, body: '{"answer":42}', attempt: 1 }), 'ok');
        const done = await driver.task(id);
        assert.equal(done?.status, 'succeeded');
        assert.equal(done?.attempt, 1);
        assert.deepEqual(JSON.parse(done?.result as string), {
          status_code: 200,
          request_id: id,
          body: { answer: 42 },
        });
      });
    }

    test('data and answer come back to the letter', async () => {
      const name = await queue();
      const id = await put({ queue: name, data: LETTERS });
      assert.equal((await takeOne(`${name}:0`)).data, LETTERS);
      assert.equal((await driver.task(id))?.data, LETTERS);
      assert.equal(await driver.complete(id, { body: LETTERS }), 'ok');
      assert.ok((await driver.task(id))?.result?.includes(LETTERS), 'the answer has changed');
    });

    test('data with an escaped NUL comes back to the letter', async () => {
      const name = await queue();
      const data = '{"text":"a\\u0000b"}';
      const id = await put({ queue: name, data });
      assert.equal((await takeOne(`${name}:0`)).data, data);
      assert.equal(await driver.complete(id, { body: data }), 'ok');
      assert.ok((await driver.task(id))?.result?.includes(data));
    });

    test('fifo takes in the order of puts across lanes', async () => {
      const [a, b] = [await queue(), await queue()];
      const first = await put({ queue: a, level: 1 });
      const second = await put({ queue: b });
      const third = await put({ queue: a, level: 1 });
      assert.deepEqual(
        ids(await take([`${b}:0`, `${a}:1`], { size: 2, strategy: 'fifo' })).sort(),
        [first, second].sort(),
      );
      assert.deepEqual(ids(await take([`${b}:0`, `${a}:1`], { size: 5, strategy: 'fifo' })), [third]);
    });

    test('round_robin alternates between lanes, in one take and from take to take', async () => {
      const [a, b] = [await queue(), await queue()];
      const [ofA, ofB] = [await putMany(a, 0, 4), await putMany(b, 0, 4)];
      const lanes = [`${a}:0`, `${b}:0`];
      const two = ids(await take(lanes, { size: 2, strategy: 'round_robin' }));
      assert.deepEqual(two.sort(), [ofA[0], ofB[0]].sort());
      const three = ids(await take(lanes, { size: 1, strategy: 'round_robin' }));
      const four = ids(await take(lanes, { size: 1, strategy: 'round_robin' }));
      assert.deepEqual([...three, ...four].sort(), [ofA[1], ofB[1]].sort());
    });

    test('active_passive empties a lane before it begins the next', async () => {
      const [a, b] = [await queue(), await queue()];
      const ofB = await putMany(b, 0, 2);
      const ofA = await putMany(a, 0, 2);
      const taken = ids(await take([`${a}:0`, `${b}:0`], { size: 3, strategy: 'active_passive' }));
      assert.deepEqual(taken.sort(), [...ofA, ofB[0]].sort());
    });

    test('sequential runs one task of a queue at a time', async () => {
      const [a, b] = [await queue(), await queue()];
      const [ofA, ofB] = [await putMany(a, 0, 2), await putMany(b, 0, 1)];
      const lanes = [`${a}:0`, `${b}:0`, `${a}:1`];
      const other = await put({ queue: a, level: 1 });
      const first = ids(await take(lanes, { size: 10, strategy: 'sequential' }));
      assert.deepEqual(first.sort(), [ofA[0], ofB[0]].sort());
      assert.deepEqual(await take(lanes, { size: 10, strategy: 'sequential' }), []);
      assert.equal(await driver.complete(ofA[0] as string, {}), 'ok');
      const [next] = ids(await take(lanes, { size: 10, strategy: 'sequential' }));
      assert.ok(next === ofA[1] || next === other);
    });

    test('within a lane the higher priority is taken first, whenever it was put', async () => {
      const name = await queue();
      const low = await put({ queue: name, priority: 1 });
      const normal = await put({ queue: name });
      const critical = await put({ queue: name, priority: 15 });
      const taken = [];
      for (let n = 0; n < 3; n++) taken.push((await takeOne(`${name}:0`)).id);
      assert.deepEqual(taken, [critical, normal, low]);
    });

    test('a take with an unknown queue anywhere is refused and takes nothing', async () => {
      const name = await queue();
      const id = await put({ queue: name });
      for (const lanes of [
        [`${name}:0`, 'nowhere:0'],
        ['nowhere:1', `${name}:0`],
      ])
        assert.equal(await driver.take(lanes), 'unknown');
      assert.equal((await driver.task(id))?.status, 'waiting');
    });

    test('a take from lanes without tasks gives nothing', async () => {
      const name = await queue();
      assert.deepEqual(await take([`${name}:0`, `${name}:99`], { size: 1000 }), []);
    });

    test('a lane without a level, or with one out of range, is refused', async () => {
      const name = await queue();
      for (const lane of [name, `${name}:`, `${name}:100`, `${name}:-1`, `${name}:x`])
        assert.equal(await driver.take([lane]), 'invalid', lane);
    });

    test('any answer but 2xx makes the task failed', async () => {
      const name = await queue();
      const id = await put({ queue: name });
      await takeOne(`${name}:0`);
      assert.equal(await driver.complete(id, { status: 429, body: '{"error":"busy"}' }), 'ok');
      assert.equal((await driver.task(id))?.status, 'failed');
    });

    test('the same answer again is ok, and another one conflicts and changes nothing', async () => {
      const name = await queue();
      const id = await put({ queue: name });
      const { attempt } = await takeOne(`${name}:0`);
      assert.equal(await driver.complete(id, { body: '"first"', attempt }), 'ok');
      assert.equal(await driver.complete(id, { body: '"first"', attempt }), 'ok');
      assert.equal(await driver.complete(id, { body: '"first"' }), 'ok');
      assert.equal(await driver.complete(id, { body: '"second"', attempt }), 'conflict');
      assert.equal(await driver.complete(id, { status: 201, body: '"first"', attempt }), 'conflict');
      assert.equal(await driver.complete(id, { body: '"first"', attempt: attempt + 1 }), 'conflict');
      assert.deepEqual(JSON.parse((await driver.task(id))?.result as string).body, 'first');
    });

    test('a task that was never taken can not be completed', async () => {
      const name = await queue();
      const id = await put({ queue: name });
      assert.equal(await driver.complete(id, {}), 'conflict');
      assert.equal((await driver.task(id))?.status, 'waiting');
    });

    test('a stale attempt can not complete or report, and the running one still can', async () => {
      const name = await queue();
      const id = await put({ queue: name });
      await takeOne(`${name}:0`);
      assert.equal(await driver.emit(id, 'step', '1', { attempt: 2 }), 'conflict');
      assert.equal(await driver.complete(id, { attempt: 2 }), 'conflict');
      assert.equal(await driver.complete(id, { attempt: 1 }), 'ok');
    });

    test('a status code out of 200 to 599 is refused', async () => {
      const name = await queue();
      const id = await put({ queue: name });
      await takeOne(`${name}:0`);
      for (const status of [199, 600, 100]) assert.equal(await driver.complete(id, { status }), 'invalid', `${status}`);
      assert.equal((await driver.task(id))?.status, 'running');
    });

    test('an unknown task, or an id that does not parse, is unknown to every call', async () => {
      for (const id of [NO_SUCH_TASK, 'TASK-1-0-C-250230000000-0000-000001', 'TASK-x']) {
        assert.equal(await driver.complete(id, {}), 'unknown', id);
        assert.equal(await driver.cancel(id), 'unknown', id);
        assert.equal(await driver.emit(id, 'step', '1'), 'unknown', id);
        assert.equal(await driver.task(id), undefined, id);
      }
    });

    test('a waiting task is cancelled and never handed out', async () => {
      const name = await queue();
      const id = await put({ queue: name });
      assert.equal(await driver.cancel(id), 'ok');
      assert.equal((await driver.task(id))?.status, 'cancelled');
      assert.deepEqual(await take([`${name}:0`]), []);
      assert.equal(JSON.parse((await driver.task(id))?.result as string).status_code, 499);
    });

    test('a running task is cancelled, and its worker then told so', async () => {
      const name = await queue();
      const id = await put({ queue: name });
      await takeOne(`${name}:0`);
      assert.equal(await driver.cancel(id), 'ok');
      assert.equal(await driver.emit(id, 'step', '1'), 'conflict');
      assert.equal(await driver.complete(id, {}), 'conflict');
      assert.equal((await driver.task(id))?.status, 'cancelled');
    });

    test('an ended task can not be cancelled', async () => {
      const name = await queue();
      const id = await put({ queue: name });
      await takeOne(`${name}:0`);
      assert.equal(await driver.complete(id, {}), 'ok');
      assert.equal(await driver.cancel(id), 'conflict');
      const other = await put({ queue: name });
      assert.equal(await driver.cancel(other), 'ok');
      assert.equal(await driver.cancel(other), 'conflict');
    });

    test('progress is kept in order, to the letter, numbered where the worker sends no id', async () => {
      const name = await queue();
      const id = await put({ queue: name });
      await takeOne(`${name}:0`);
      assert.equal(await driver.emit(id, 'chunk', '{"x":1.0}'), 'ok');
      assert.equal(await driver.emit(id, 'chunk', '[12345678901234567890]', { eventId: 'mine' }), 'ok');
      assert.equal(await driver.emit(id, 'chunk', '"again"', { eventId: 'mine', attempt: 1 }), 'ok');
      assert.equal(await driver.emit(id, 'other', 'null'), 'ok');
      assert.equal(await driver.complete(id, {}), 'ok');
      const events = await driver.events(id);
      assert.deepEqual(
        events.map(({ name, data }) => [name, data]),
        [
          ['chunk', '{"x":1.0}'],
          ['chunk', '[12345678901234567890]'],
          ['chunk', '"again"'],
          ['other', 'null'],
        ],
      );
      assert.deepEqual([events[1]?.id, events[2]?.id], ['mine', 'mine']);
      assert.ok(Number(events[3]?.id) > Number(events[0]?.id), 'numbers rise');
    });

    test('only a running task can be reported on, and not under the names of its end', async () => {
      const name = await queue();
      const id = await put({ queue: name });
      assert.equal(await driver.emit(id, 'step', '1'), 'conflict');
      await takeOne(`${name}:0`);
      assert.equal(await driver.emit(id, 'completion', '1'), 'invalid');
      assert.equal(await driver.emit(id, 'error', '1'), 'invalid');
      assert.equal(await driver.emit(id, '', '1'), 'invalid');
      assert.equal(await driver.complete(id, {}), 'ok');
      assert.equal(await driver.emit(id, 'step', '1'), 'conflict');
    });

    test('an event name or id of more than one line is refused', async () => {
      const name = await queue();
      const id = await put({ queue: name });
      await takeOne(`${name}:0`);
      for (const bad of ['a\nb', 'a\rb']) {
        assert.equal(await driver.emit(id, bad, '1'), 'invalid');
        assert.equal(await driver.emit(id, 'step', '1', { eventId: bad }), 'invalid');
      }
    });

    test('without a queue, the channel of endpoint and model is the route', async () => {
      const name = await queue();
      assert.equal(await driver.channel(CHAT, `${name}-model`, name), 'ok');
      const id = await put({ data: `{"model":"${name}-model"}` });
      assert.equal((await takeOne(`${name}:0`)).id, id);
    });

    test('a channel set again leads to the other queue', async () => {
      const [a, b] = [await queue(), await queue()];
      assert.equal(await driver.channel(CHAT, `${a}-moved`, a), 'ok');
      assert.equal(await driver.channel(CHAT, `${a}-moved`, b), 'ok');
      const id = await put({ data: `{"model":"${a}-moved"}` });
      assert.equal((await takeOne(`${b}:0`)).id, id);
    });

    test('without a channel, the queue named like the model and of the endpoint is the route', async () => {
      const name = await queue(EMBED);
      const id = await put({ endpoint: EMBED, data: `{"model":"${name}"}` });
      assert.equal((await takeOne(`${name}:0`)).id, id);
      assert.equal(await driver.put({ endpoint: CHAT, data: `{"model":"${name}"}` }), 'invalid');
    });

    test('a put without a route, to an unknown queue, or with another endpoint than its queue is refused', async () => {
      const name = await queue();
      assert.equal(await driver.put({ endpoint: CHAT, data: '{"model":"nobody-serves"}' }), 'invalid');
      assert.equal(await driver.put({ endpoint: CHAT, data: '{}' }), 'invalid');
      assert.equal(await driver.put({ queue: 'nowhere', endpoint: CHAT }), 'unknown');
      assert.equal(await driver.put({ queue: name, endpoint: EMBED }), 'invalid');
    });

    test('a channel to an unknown queue, or of another endpoint than its queue, is refused', async () => {
      const name = await queue();
      assert.equal(await driver.channel(CHAT, 'm', 'nowhere'), 'unknown');
      assert.equal(await driver.channel(EMBED, 'm', name), 'invalid');
    });

    test('a queue is registered again for the same endpoint, and for no other', async () => {
      const name = await queue();
      assert.equal(await driver.register(name, CHAT), 'ok');
      assert.equal(await driver.register(name, EMBED), 'conflict');
    });

    test('a queue name that is reserved or malformed is refused', async () => {
      const reserved = ['put', 'puts', 'take', 'complete', 'register', 'events', 'eventbus', 'heartbeat', 'TASK-9'];
      for (const name of [...reserved, '', 'a b', 'a:1', 'é', 'x'.repeat(65)])
        assert.equal(await driver.register(name, CHAT), 'invalid', name);
      assert.equal(await driver.register('y'.repeat(64), CHAT), 'ok');
    });

    test('a paused queue accepts puts and hands out nothing until it is resumed', async () => {
      const name = await queue();
      assert.equal(await driver.pause(name, true), 'ok');
      const id = await put({ queue: name });
      for (const strategy of ['fifo', 'round_robin', 'active_passive', 'sequential'])
        assert.deepEqual(await take([`${name}:0`], { strategy }), [], strategy);
      assert.equal(await driver.pause(name, false), 'ok');
      assert.equal((await takeOne(`${name}:0`)).id, id);
      assert.equal(await driver.pause('nowhere', true), 'unknown');
    });

    test('the counts of a lane follow its tasks', async () => {
      const name = await queue();
      const made = await putMany(name, 2, 3);
      assert.deepEqual(await driver.stats(`${name}:2`), { waiting: 3, running: 0, put: 3, ended: 0 });
      await takeOne(`${name}:2`);
      assert.deepEqual(await driver.stats(`${name}:2`), { waiting: 2, running: 1, put: 3, ended: 0 });
      await driver.complete(made[0] as string, {});
      await driver.cancel(made[1] as string);
      assert.deepEqual(await driver.stats(`${name}:2`), { waiting: 1, running: 0, put: 3, ended: 2 });
    });

    test('levels and priorities out of range are refused', async () => {
      const name = await queue();
      for (const task of [{ level: -1 }, { level: 100 }, { priority: -1 }, { priority: 101 }])
        assert.equal(await driver.put({ queue: name, endpoint: CHAT, ...task }), 'invalid', JSON.stringify(task));
      assert.deepEqual(await take([`${name}:0`, `${name}:99`]), []);
    });
  });
}
