import assert from 'node:assert/strict';
import { test } from 'node:test';
import OpenAI from 'openai';
import OpenAI6 from 'openai-6';
import type { Json } from '../support/server.ts';
import { assertOpenAiError, CHAT, EMBED, fixture } from './fixture.ts';

const f = fixture();
const clients = () =>
  [OpenAI, OpenAI6].map(
    (Client) => new Client({ baseURL: `${f.server.url}/v1`, apiKey: f.keys.client, maxRetries: 0 }),
  );

test('models are what requests may name: channels and queues, each once, by name', async () => {
  assert.deepEqual((await f.client('GET', '/v1/models')).json, { object: 'list', data: [] });
  const queue = await f.queue();
  const gone = await f.queue(EMBED);
  await f.worker('DELETE', `/v1/queue/${gone}`);
  await f.worker('POST', '/v1/queue/register', { queue: 'B', endpoint: EMBED });
  for (const [model, endpoint, to] of [
    ['meta-llama/Llama-3.1-8B', CHAT, queue],
    ['a b%/ü', CHAT, queue],
    ['a b%/ü', EMBED, 'B'],
    [queue, CHAT, queue],
  ])
    assert.equal((await f.worker('POST', '/v1/channels', { endpoint, model, queue: to })).status, 200);

  const { json } = await f.worker('GET', '/v1/models');
  assert.deepEqual(Object.keys(json), ['object', 'data']);
  assert.deepEqual(
    json.data.map((model: Json) => model.id),
    ['B', 'a b%/ü', 'meta-llama/Llama-3.1-8B', queue],
  );
  for (const model of json.data) {
    assert.deepEqual(Object.keys(model), ['id', 'object', 'created', 'owned_by']);
    assert.equal(model.object, 'model');
    assert.ok(Number.isInteger(model.created) && Math.abs(model.created - Date.now() / 1000) < 60);
  }
  for (const client of clients()) {
    const listed = [];
    for await (const model of client.models.list()) listed.push(model);
    assert.deepEqual(listed, json.data);
    for (const model of json.data) assert.deepEqual({ ...(await client.models.retrieve(model.id)) }, model);
  }
  const raw = await f.client('GET', '/v1/models/meta-llama/Llama-3.1-8B');
  assert.equal(raw.json.id, 'meta-llama/Llama-3.1-8B');
});

test('a model that there is not is a 404 in the words of OpenAI', async () => {
  for (const id of ['gpt-nothing', 'a/b', 'x'.repeat(300), 'a\0b']) {
    const message = `The model '${id}' does not exist or you do not have access to it.`;
    assertOpenAiError(await f.client('GET', `/v1/models/${encodeURIComponent(id)}`), 404, 'model_not_found', message);
  }
  for (const client of clients())
    await assert.rejects(client.models.retrieve('a/b'), { status: 404, code: 'model_not_found', name: 'Error' });
  assertOpenAiError(await f.client('GET', '/v1/models/%ff'), 400);
  assertOpenAiError(await f.client('DELETE', '/v1/models/a/b'), 405, 'method_not_supported');
  assertOpenAiError(await f.server.request('GET', '/v1/models', undefined, { key: null }), 401);
});
