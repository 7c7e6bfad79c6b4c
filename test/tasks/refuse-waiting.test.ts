import assert from 'node:assert/strict';
import { after, describe, test } from 'node:test';
import { CHAT, fixture } from '../http/fixture.ts';
import { createRecorder } from '../support/feed.ts';
import { type Json, until } from '../support/server.ts';

const f = fixture();
const psql = createRecorder(() => f.server.databaseUrl);
after(psql.close);

let workers = 0;

/** A worker of the lanes, seen now, that says this of its upstreams. */
const reporting = (lanes: string[], upstreams: object[] | null, more: { ago?: number; draining?: boolean } = {}) =>
  psql.query(
    `insert into tasklane.worker (worker, lanes, upstreams, last_seen, draining)
     values ($1, $2, $3, now() - make_interval(secs => $4), $5)`,
    [`w${++workers}`, lanes, upstreams && JSON.stringify(upstreams), more.ago ?? 0, more.draining ?? false],
  );
const out = (state: string, more: object = {}) => ({
  url: 'http://gpu',
  state,
  since: 0,
  in_flight: 0,
  limit: 1,
  ...more,
});
const AWAY = out('away', { message: 'connect ECONNREFUSED' });
const REFUSING = out('refusing', { status: 429, message: 'slow down', since: Date.now() - 1000 });

const ask = (model: string) => f.client('POST', CHAT, { model });
const waiting = async (queue: string) => (await f.worker('GET', `/v1/queue/${queue}:0/backlog`)).json;

/** Puts a live task of each queue, and one of a queue whose only server is away: when that has ended, all would have. */
async function stayWaiting(queues: string[]): Promise<void> {
  const hangUp = new AbortController();
  const asked = queues.map((queue) => f.client('POST', CHAT, { model: queue }, { signal: hangUp.signal }));
  const ends = asked.map((answer) => assert.rejects(answer));
  const last = await f.queue(CHAT, { live_refusal_seconds: 0 });
  for (const queue of queues) await until(async () => (await waiting(queue)) === 1);
  await reporting([`${last}:0`], [AWAY]);
  assert.equal((await ask(last)).status, 502);
  assert.deepEqual(
    await Promise.all(queues.map(waiting)),
    queues.map(() => 1),
  );
  hangUp.abort();
  await Promise.all(ends);
}

describe('a live task that nobody takes since its model servers are out', () => {
  test('ends with the words of the one that went out last, and others that wait there go on', async () => {
    const queue = await f.queue(CHAT, { live_refusal_seconds: 1 });
    await reporting([`${queue}:0`, `${queue}:1`], [AWAY, { ...REFUSING, queues: [queue] }]);
    const [called, below] = [await f.put(queue), await f.put(queue, { level: 1 })];
    const { stream, id } = await f.stream(queue);
    const answer = await ask(queue);
    assert.equal(answer.status, 429);
    const error = { message: 'slow down', type: 'upstream_error', param: null, code: 'upstream_refused' };
    assert.deepEqual(answer.json, { error });
    assert.equal(answer.headers.get('retry-after'), '1');
    const [event] = await stream.rest();
    assert.deepEqual(
      [event?.name, JSON.parse(event?.data ?? '')],
      ['completion', { status_code: 429, request_id: id, body: { error } }],
    );
    assert.deepEqual([await f.status(called), await f.status(below)], ['waiting', 'waiting']);
    const dead = (await f.client('GET', `/v1/dead?queue=${queue}`)).json.data;
    assert.deepEqual(
      dead.map((task: Json) => task.result.status_code),
      [429, 429],
    );
  });

  test('ends with 502 where there is no connection, and with the status of a server that fails', async () => {
    for (const [upstream, status, code] of [
      [AWAY, 502, 'upstream_refused'],
      [out('failing', { status: 500, message: 'CUDA' }), 500, 'upstream_broken'],
      [out('failing'), 502, 'upstream_broken'],
      [{ ...REFUSING, status: 503 }, 503, 'upstream_refused'],
    ] as const) {
      const queue = await f.queue(CHAT, { live_refusal_seconds: 0 });
      await reporting([`${queue}:0`], [upstream]);
      const answer = await ask(queue);
      assert.deepEqual([answer.status, answer.json.error.code], [status, code]);
      assert.equal(answer.headers.get('x-should-retry'), status === 503 ? null : 'false');
    }
  });

  test('waits on while another upstream or worker may serve its queue, and while that is paused', async () => {
    const queues = await Promise.all(Array.from({ length: 7 }, () => f.queue(CHAT, { live_refusal_seconds: 0 })));
    const [healthy, mine, silent, none, paused, idle, limited] = queues as [
      string,
      string,
      string,
      string,
      string,
      string,
      string,
    ];
    await reporting([`${healthy}:0`], [AWAY, out('healthy')]);
    await reporting([`${mine}:0`], [AWAY]);
    await reporting([`${mine}:0`], [out('healthy')]);
    await reporting([`${silent}:0`], [AWAY]);
    await reporting([`${silent}:0`], null);
    await reporting([`${none}:0`], [{ ...AWAY, queues: ['another'] }]);
    await reporting([`${paused}:0`], [AWAY]);
    await f.worker('POST', `/v1/queue/${paused}/pause`);
    await reporting([`${idle}:0`], [AWAY], { ago: 46 });
    await reporting(
      [`${limited}:0`],
      [
        { ...AWAY, queues: ['another'] },
        { ...out('healthy'), queues: [limited] },
      ],
    );
    await stayWaiting(queues);
  });

  test('does not wait for workers that drain, were not seen lately or serve another level', async () => {
    const queue = await f.queue(CHAT, { live_refusal_seconds: 0 });
    await reporting([`${queue}:0`], [AWAY]);
    await reporting([`${queue}:0`], null, { draining: true });
    await reporting([`${queue}:0`], null, { ago: 46 });
    await reporting([`${queue}:1`], null);
    assert.equal((await ask(queue)).status, 502);
  });

  test('waits for as long as its queue says, from when the server went out', async () => {
    const queue = await f.queue(CHAT, { live_refusal_seconds: 3600 });
    await reporting([`${queue}:0`], [AWAY]);
    await stayWaiting([queue]);
  });
});
