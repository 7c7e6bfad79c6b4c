import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { setImmediate } from 'node:timers/promises';
import { createEngine, gauges, slots, totalSlots } from '../../../client/executors/engine.ts';
import { openAiExecutor } from '../../../client/executors/openai.ts';
import type { EngineLoad } from '../../../client/worker/limit.ts';
import { type Heard, json, listen, work } from './support.ts';

const VLLM = `# HELP vllm:num_requests_running Number of requests in model execution batches.
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0",model_name="Qwen/Qwen2.5-0.5B"} 8.0
# HELP vllm:num_requests_waiting Number of requests waiting to be processed.
# TYPE vllm:num_requests_waiting gauge
vllm:num_requests_waiting{engine="0",model_name="Qwen/Qwen2.5-0.5B"} 3.0
vllm:num_requests_waiting{engine="1",model_name="a } b"} 1e+00
vllm:num_requests_waiting_by_reason{engine="0",model_name="Qwen/Qwen2.5-0.5B",reason="capacity"} 40.0
`;
const SGLANG = `# TYPE sglang:num_running_reqs gauge
sglang:num_running_reqs{model_name="meta-llama/Llama-3.1-8B-Instruct"} 162.0
# TYPE sglang:num_queue_reqs gauge
sglang:num_queue_reqs{model_name="meta-llama/Llama-3.1-8B-Instruct"} 2826.0
`;
const LLAMA = `# TYPE llamacpp:requests_processing gauge
llamacpp:requests_processing 1
# TYPE llamacpp:requests_deferred gauge
llamacpp:requests_deferred 2
`;
const SLOTS = JSON.stringify([0, 1, 2].map((id) => ({ id, n_ctx: 4096, is_processing: id > 0, params: {} })));
const PROPS = JSON.stringify({ default_generation_settings: { n_ctx: 4096 }, total_slots: 4, model_path: 'm.gguf' });
const OFF = {
  error: { code: 501, message: 'This server does not support slots endpoint.', type: 'not_supported_error' },
};

test('what engines say of their load is read, and nothing else', () => {
  assert.deepEqual(gauges(VLLM), { waiting: 4 });
  assert.deepEqual(gauges(VLLM.replaceAll('\n', '\r\n')), { waiting: 4 });
  assert.deepEqual(gauges(SGLANG), { waiting: 2826 });
  assert.deepEqual(gauges(LLAMA), { waiting: 2 });
  for (const text of ['', 'x 1', 'vllm:num_requests_waiting', 'vllm:num_requests_waiting{a="b"} NaN', '\0{'])
    assert.equal(gauges(text), undefined);
  assert.deepEqual(slots(SLOTS), { places: 3 });
  for (const text of ['[]', '{}', 'null', '[null]', '[{"id":0}]']) assert.equal(slots(text), undefined);
  assert.deepEqual(totalSlots(PROPS), { places: 4 });
  for (const text of ['null', '[]', '{"total_slots":0}', '{"total_slots":"4"}', '{"total_slots":1.5}'])
    assert.equal(totalSlots(text), undefined);
});

describe('asking an engine', { concurrency: true }, () => {
  /** Looks once, after `later` milliseconds; gives what was told and heard. */
  const engineOf = (url: string) => {
    let time = 0;
    let told = Promise.withResolvers<EngineLoad>();
    const tell = (load: EngineLoad) => {
      told.resolve(load);
      told = Promise.withResolvers<EngineLoad>();
    };
    const engine = createEngine(new URL(url), { Authorization: 'Bearer key' }, tell, () => time);
    return (later = 0) => {
      time += later;
      const next = told.promise;
      engine.look();
      engine.look();
      return next;
    };
  };
  const paths = (requests: Heard[]) => requests.map(({ url }) => url);

  test('it is asked beside its /v1, with its key, and then only where it has told something', async () => {
    await using vllm = await listen(({ url }, res) =>
      url === '/a/metrics' ? res.writeHead(200).end(VLLM) : json(res, 404, { detail: 'Not Found' }),
    );
    const look = engineOf(`${vllm.url}/a/v1/`);
    assert.deepEqual(await look(), { waiting: 4 });
    assert.deepEqual(paths(vllm.requests), ['/a/props', '/a/slots', '/a/metrics']);
    assert.equal(vllm.requests[0]?.headers.authorization, 'Bearer key');
    assert.deepEqual(await look(2000), { waiting: 4 });
    assert.deepEqual(paths(vllm.requests).slice(3), ['/a/metrics']);
  });

  test('slots are asked for where there are no props', async () => {
    await using llama = await listen(({ url }, res) =>
      url === '/slots' ? res.writeHead(200).end(SLOTS) : json(res, 501, OFF),
    );
    assert.deepEqual(await engineOf(llama.url)(), { places: 3 });
  });

  test('one that says nothing, or what nobody understands, is left alone for a while', async () => {
    const all: ((path: string) => [number, string])[] = [
      () => [404, ''],
      () => [501, JSON.stringify(OFF)],
      () => [200, '<h1>'],
      () => [200, 'x'.repeat(2 * 1024 * 1024)],
    ];
    for (const reply of all) {
      await using server = await listen(({ url }, res) => {
        const [status, text] = reply(url);
        res.writeHead(status).end(text);
      });
      const look = engineOf(server.url);
      assert.deepEqual(await look(), {});
      assert.equal(server.requests.length, 3);
      void look(60_000);
      assert.deepEqual(await look(600_000), {});
      assert.equal(server.requests.length, 6);
    }
    assert.deepEqual(await engineOf('http://127.0.0.1:9')(), {});
  });

  test('one that does not answer is not waited for', async () => {
    await using silent = await listen(() => undefined);
    assert.deepEqual(await engineOf(silent.url)(), {});
  });

  test('an executor whose room is taken goes to the slots of its server; with a fixed number it does not ask', async () => {
    await using llama = await listen(({ url }, res) => json(res, 200, url === '/props' ? PROPS : {}));
    const executor = openAiExecutor({ upstreams: [{ url: llama.url }] });
    assert.equal(executor.remainingCapacity?.('chat'), 8);
    executor.filled?.('chat');
    while (executor.remainingCapacity?.('chat') !== 5) await setImmediate();
    const fixed = openAiExecutor({ upstreams: [{ url: llama.url }], concurrency: 8 });
    fixed.filled?.('chat');
    await work(fixed);
    assert.deepEqual(paths(llama.requests), ['/props', '/v1/chat/completions']);
  });
});
