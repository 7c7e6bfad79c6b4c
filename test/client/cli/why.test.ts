import assert from 'node:assert/strict';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import { createClient } from '../../../client/client.ts';
import type { UpstreamReport } from '../../../client/types.ts';
import { type Server, startServer } from '../../support/server.ts';
import { type Fate, startProxy } from '../proxy.ts';
import { cli, runHere } from './tasklane.ts';

const CHAT = '/v1/chat/completions';
const CAUSE = /the upstream http:\/\/gpu:8000 of worker gpu-1 answers 500 "CUDA out of memory" since \d\d:\d\d UTC/;

describe('why, where people look', () => {
  let folder: string;
  let server: Server;
  let client: ReturnType<typeof createClient>;
  let waiting: string;

  const printed = async (line: string): Promise<string> => {
    const { code, stdout, stderr } = await runHere(line);
    assert.equal(code, 0, stderr);
    return stdout.trimEnd();
  };
  const json = async (line: string) => JSON.parse(await printed(`${line} --json`));
  const upstream = (more: Partial<UpstreamReport>): UpstreamReport => ({
    url: 'http://gpu:8000',
    state: 'healthy',
    since: Date.now() - 300_000,
    in_flight: 3,
    limit: 8,
    ...more,
  });
  const takeAs = (worker: object, ...queues: string[]) =>
    client.request('POST', '/v1/queue/take', { body: { queues, size: 1, worker } });
  const failing = { state: 'failing', status: 500, message: 'CUDA out of\nmemory' } as const;

  before(async () => {
    folder = await mkdtemp(join(tmpdir(), 'tasklane-why-'));
    server = await startServer();
    client = createClient({ baseUrl: server.url, apiKey: server.adminKey });
    Object.assign(process.env, { TASKLANE_URL: server.url, TASKLANE_API_KEY: server.adminKey });
    process.chdir(folder);
    for (const queue of ['m1', 'alone', 'idle']) await client.queues.register(queue, CHAT);
    await takeAs(
      {
        id: 'vm-1',
        name: 'gpu-1',
        host: 'box',
        upstreams: [upstream(failing), upstream({ url: 'http://b', queues: ['idle'] })],
      },
      'm1:0',
      'm1:1',
      'idle:0',
    );
    waiting = await client.put({ queue: 'm1', endpoint: CHAT, data: { model: 'm1' } });
    await client.put({ queue: 'alone', endpoint: CHAT, data: {} });
  });
  after(async () => {
    process.chdir(import.meta.dirname);
    await server?.stop();
    await rm(folder, { recursive: true });
  });

  it('is told of a task', async () => {
    assert.match(await printed(`status ${waiting}`), new RegExp(`Why: +${CAUSE.source}\nAhead of it: +0\n`));
    const { explanation, task_id: id } = await json(`status ${waiting}`);
    assert.deepEqual([id, explanation.rule, explanation.position], [waiting, 'upstream_failing', 0]);
    assert.equal((await client.explain(waiting)).status, 'waiting');
  });

  it('is told of lanes and lists', async () => {
    for (const line of ['list', 'queues', 'status']) {
      const text = await printed(line);
      assert.match(text, new RegExp(`^! m1:0: ${CAUSE.source}$`, 'm'), line);
      assert.match(text, /^! alone:0: no worker takes from alone:0$/m, line);
      assert.doesNotMatch(text, /! idle/, line);
    }
    assert.match(await printed('queues show m1'), new RegExp(`^m1:0 +1 +0 +0\n\n! m1:0: ${CAUSE.source}$`, 'm'));
    assert.deepEqual((await json('list --queue alone')).data.length, 1);
    assert.equal((await json('queues'))[0].levels[0].rule, 'no_worker');
    assert.doesNotMatch(await printed('list --status dead'), /!/);
  });

  it('is told of a batch', async () => {
    const line = { custom_id: 'a', method: 'POST', url: CHAT, body: { model: 'm1', messages: [] } };
    const batch = await client.batches.submit(`${JSON.stringify(line)}\n`);
    while ((await client.batches.get(batch.id)).status === 'validating');
    assert.match(await printed(`batches show ${batch.id}`), new RegExp(`Why: +${CAUSE.source}`));
  });

  it('shows workers with their ids, states and upstreams', async () => {
    await takeAs({ id: 'vm-2', name: 'gpu-1' }, 'm1:9');
    await client.request('POST', '/v1/queue/heartbeat', {
      body: { tasks: [], worker: { id: 'vm-2', stopping: true } },
    });
    const text = await printed('workers');
    assert.match(text, /^WORKER +ID +LANES +RUNNING +RATE +SEEN +STATE$/m);
    assert.match(text, /^gpu-1 +vm-1 +m1:0,m1:1,idle:0 +0 +0\.0\/s +\S.* active$/m);
    assert.match(text, /^gpu-1 +vm-2 +m1:9 .* stopped$/m);
    assert.match(text, /^UPSTREAM +WORKER +STATE +SINCE +BUSY +SAYS$/m);
    assert.match(text, /^http:\/\/gpu:8000 +gpu-1 +failing +5m ago +3\/8 +500 CUDA out of memory$/m);
    assert.match(text, /^http:\/\/b +gpu-1 +healthy +5m ago +3\/8 +-$/m);
    const shown = await printed('workers show vm-1');
    assert.match(shown, /Worker: +vm-1\nName: +gpu-1\nHost: +box\nState: +active\n/);
    assert.match(shown, /Upstream: +http:\/\/b\nState: +healthy, for 5m\nIn flight: +3 of 8\nQueues: +idle$/);
    assert.equal((await json('workers show gpu-1')).length, 2);
    assert.equal((await json('workers show vm-2')).state, 'stopped');
    assert.equal((await runHere('workers show nobody')).code, 4);
  });

  it('drains workers by their name', async () => {
    assert.equal(await printed('workers drain gpu-1'), 'gpu-1 drains');
    assert.deepEqual((await client.workers.list()).map(({ id, state }) => `${id} ${state}`).toSorted(), [
      'vm-1 draining',
      'vm-2 stopped',
    ]);
    assert.match(await printed(`status ${waiting}`), /Why: +no worker takes from m1:0: gpu-1 drains\n/);
    assert.equal(await printed('workers resume gpu-1'), 'gpu-1 resumed');
  });

  it('shows in top what is wrong, first and marked, and scrolls', async () => {
    const queues = Array.from({ length: 30 }, (_, n) => `lane-${n}`);
    for (const queue of queues) {
      await client.queues.register(queue, CHAT);
      await client.put({ queue, endpoint: CHAT, data: {} });
    }
    await takeAs({ id: 'idle-1' }, ...queues.map((queue) => `${queue}:5`));
    const once = await printed('top --once');
    assert.match(once, new RegExp(`^! m1:0: ${CAUSE.source.replaceAll(' ', '\\s+')}`, 'm'));
    assert.match(once, /^ {2}and \d+ more lanes: see tasklane queues$/m);
    assert.match(once, /^! +m1:0 +1 +0 +0 /m);
    assert.match(once, /^! +http:\/\/gpu:8000 +gpu-1 +failing /m);
    const top = cli(folder, { TASKLANE_URL: server.url, TASKLANE_API_KEY: server.adminKey }).terminal('top');
    const first = await top.shows(/lines 1 to (\d+) of \d+ .*q leaves/);
    assert.match(first, /^[\s\S]*tasklane top/);
    const [, to] = /lines 1 to (\d+) of/.exec(first) ?? [];
    assert.ok(Number(to) <= 20, `${to} lines of 24, less head and foot`);
    top.type('\u001b[B');
    await top.shows(/lines 2 to /);
    top.type('\u001b[6~');
    await top.shows(new RegExp(`lines ${2 + Number(to)} to `));
    for (let page = 0; page < 8; page++) top.type('\u001b[6~');
    await top.shows(/lines \d+ to (\d+) of \1 /);
    top.type('\u001b[A\u001b[5~\u001b[5~\u001b[5~\u001b[5~\u001b[5~\u001b[5~\u001b[5~\u001b[5~\u001b[5~');
    await top.shows(/lines \d+ to (\d+) of \1 [\s\S]*lines 1 to /);
    top.type('q');
    assert.equal((await top.ended).code, 0);
  });

  it('says in top that the server does not answer, since when and why, and goes on when it does', async () => {
    let fate: Fate = 'pass';
    const proxy = await startProxy(server.url, () => fate);
    const top = cli(folder, { TASKLANE_URL: proxy.url, TASKLANE_API_KEY: server.adminKey }).terminal('top');
    await top.shows(/m1:0/);
    fate = { status: 503 };
    await top.shows(/! no answer for \d+s, since \d\d:\d\d:\d\d UTC: made up by the proxy/);
    fate = 'pass';
    const seen = (await top.shows(/made up by the proxy[\s\S]*waiting, \d+ running/)).length;
    await proxy.stop();
    const last = (await top.shows(/no answer for \d+s, since \d\d:\d\d:\d\d UTC: ECONNREFUSED/)).slice(seen);
    assert.doesNotMatch(last, /No lanes/, 'the last values stay');
    top.type('q');
    assert.equal((await top.ended).code, 0);
  });
});
