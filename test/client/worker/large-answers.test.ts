import assert from 'node:assert/strict';
import { describe, type TestContext, test } from 'node:test';
import { createExecutor, createWorker } from '../../../client/worker.ts';
import { batchSteps, jsonl, line } from '../../http/batch-steps.ts';
import { CHAT, EMBED, fixture } from '../../http/fixture.ts';
import { readStream } from '../../support/read-stream.ts';
import { json, listen } from '../executors/support.ts';

const MIB = 1 << 20;
/** Less than the server's own, so that a test beyond it need not be so large. */
const MOST = 24 * MIB;
const f = fixture({ TASKLANE_MAX_ANSWER_BYTES: String(MOST) });
const steps = batchSteps(f);

const chunk = (content: string, finish: string | null = null) =>
  `data: ${JSON.stringify({ choices: [{ index: 0, delta: { content }, finish_reason: finish }] })}\n\n`;

/** A worker before a model server whose answers are as large as a request's `size` says, in MiB. */
async function serve(t: TestContext, endpoint: string) {
  const queue = await f.queue(endpoint);
  const server = await listen(({ method, body }, res) => {
    if (method === 'GET') return json(res, 200, {});
    const { size, stream } = JSON.parse(body);
    if (!stream) return json(res, 200, `{"data":[{"embedding":"${'A'.repeat(size * MIB)}"}]}`);
    res.writeHead(200, { 'Content-Type': 'text/event-stream' });
    for (let n = 0; n < size * 4; n++) res.write(chunk('W'.repeat(MIB / 4)));
    res.end(`${chunk('', 'stop')}data: [DONE]\n\n`);
  });
  const executor = createExecutor('openai', { upstreams: [{ url: server.url, concurrency: 2 }] });
  const lanes = [`${queue}:0`, `${queue}:1`];
  const options = { baseUrl: f.server.url, apiKey: f.keys.worker, queues: lanes, handleSignals: false, executor };
  const worker = createWorker(options);
  t.after(async () => {
    await worker.stop();
    await server.close();
  });
  await worker.start();
  return { queue, calls: () => server.requests.filter(({ method }) => method === 'POST').length };
}

const TOO_LARGE = { type: 'upstream_error', param: null, code: 'answer_too_large' };

describe('an answer', { concurrency: true }, () => {
  test('of many vectors is delivered, and one beyond the limit is an error that nobody repeats', async (t) => {
    const { queue, calls } = await serve(t, EMBED);
    const large = await f.client('POST', EMBED, { model: queue, size: 17 });
    assert.equal(large.status, 200, large.text.slice(0, 200));
    assert.equal(large.json.data[0].embedding.length, 17 * MIB);
    assert.equal(calls(), 1);
    const beyond = await f.client('POST', EMBED, { model: queue, size: 25 });
    assert.equal(beyond.status, 502);
    assert.equal(beyond.headers.get('x-should-retry'), 'false');
    const { message, ...error } = beyond.json.error;
    assert.match(message, /^the model server's answer is larger than \d+ bytes$/);
    assert.deepEqual(error, TOO_LARGE);
    assert.equal(calls(), 2);
  });

  test('of a stream arrives whole and ends well, and one beyond the limit is cut with an error', async (t) => {
    const { queue, calls } = await serve(t, CHAT);
    const ask = (size: number) =>
      readStream(f.server, CHAT, { model: queue, size, stream: true }, { key: f.keys.client });
    const whole = await ask(12);
    assert.ok(whole.isWhole);
    assert.ok(whole.text.endsWith('data: [DONE]\n\n'), whole.text.slice(-200));
    assert.equal(whole.text.match(/W/g)?.length, 12 * MIB);
    const beyond = await ask(25);
    assert.equal(beyond.isWhole, false);
    assert.match(
      beyond.text.slice(-300),
      /data: \{"error":\{"message":"[^"]*larger than \d+ bytes".*"code":"answer_too_large"/,
    );
    assert.equal(calls(), 2);
  });

  test('of a line is in the batch’s files, as is the error beyond the limit', async (t) => {
    const { queue, calls } = await serve(t, CHAT);
    const sized = (id: string, size: number) => line(id, queue, { body: { model: queue, size, messages: [] } });
    const { id } = await steps.create(jsonl([sized('small', 0), sized('large', 17), sized('beyond', 25)]));
    const batch = await steps.become(id, 'completed');
    assert.deepEqual(batch.request_counts, { total: 3, completed: 2, failed: 1 });
    const { output, errors } = await steps.files(batch);
    const sizes = Object.fromEntries(
      output.map((one) => [one.custom_id, one.response.body.data[0].embedding.length / MIB]),
    );
    assert.deepEqual(sizes, { small: 0, large: 17 });
    assert.equal(errors.length, 1);
    assert.equal(errors[0].response.status_code, 502);
    assert.partialDeepStrictEqual(errors[0].response.body.error, TOO_LARGE);
    assert.equal(calls(), 3);
  });

  test('by hand has the same limit, alone, among others or as an event', async () => {
    const queue = await f.queue();
    const take = async () => {
      await f.put(queue);
      return (await f.takeOne(`${queue}:0`)).task_id;
    };
    const result = (size: number) => ({ status_code: 200, body: 'x'.repeat(size) });
    for (const size of [17 * MIB, MOST]) {
      const status = size < MOST ? 200 : 413;
      const alone = await f.worker('POST', `/v1/queue/${await take()}/complete`, result(size));
      assert.equal(alone.status, status, alone.text);
      const among = { results: [{ task_id: await take(), ...result(size) }] };
      assert.equal((await f.worker('POST', '/v1/queue/complete', among)).status, status);
      const payload = { taskId: await take(), result: result(size) };
      const event = { name: 'task-completion-event', payload };
      assert.equal((await f.worker('POST', '/v1/queue/events', event)).status, status);
    }
    const put = await f.tryPut({ queue, data: { text: 'x'.repeat(11 * MIB) } });
    assert.equal(put.status, 413, 'a request has its own limit');
  });
});
