import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import OpenAI, { APIError, NotFoundError } from 'openai';
import type { WebhookCreateParams } from 'openai/resources/webhooks';
import pg from 'pg';
import { startReceiver } from '../callbacks/receiver.ts';
import type { Answer } from '../support/server.ts';
import { assertOpenAiError, fixture } from './fixture.ts';

const f = fixture();
const PATH = '/v1/webhook_endpoints';
const EVENTS = ['batch.completed', 'batch.failed', 'batch.expired', 'batch.cancelled'];
const NOBODY = 'whe_0123456789abcdefABCDEF';
const wanted: WebhookCreateParams = {
  name: 'of a test',
  url: 'https://example.com/hook?a=1',
  event_types: ['batch.completed', 'batch.failed'],
};

const sdk = (apiKey: string) => new OpenAI({ apiKey, baseURL: `${f.server.url}/v1` });
const as = {
  get own() {
    return sdk(f.keys.client);
  },
  get other() {
    return sdk(f.keys.other);
  },
  get admin() {
    return sdk(f.keys.admin);
  },
};

let tenants = 0;
/** A client of a tenant that has nothing yet. */
const newcomer = async () => sdk(await f.server.key('client', `newcomer${++tenants}`));

/** Makes an endpoint 100 seconds older: times are told in seconds. */
async function age(id: string): Promise<void> {
  const psql = new pg.Client({ connectionString: f.server.databaseUrl });
  await psql.connect();
  await psql.query(
    `update tasklane.webhook_endpoint set created_at = created_at - interval '100 s', updated_at = updated_at - interval '100 s'
     where endpoint_id = $1`,
    [id],
  );
  await psql.end();
}

function assertRefused(answer: Answer, status: number, param: string | null, code: string | null, message: RegExp) {
  assertOpenAiError(answer, status, code, message);
  assert.equal(answer.json.error.param, param);
}

describe('the openai client', () => {
  test('makes an endpoint, whose secret is shown this once', async () => {
    const { signing_secret, ...made } = await as.own.webhooks.create(wanted);
    assert.match(signing_secret, /^whsec_[A-Za-z0-9+/]{43}=$/);
    const { id, created_at, updated_at, ...rest } = made;
    assert.match(id, /^whe_[0-9A-Za-z]{22}$/);
    assert.ok(Number.isInteger(created_at) && Math.abs(created_at - Date.now() / 1000) < 60);
    assert.equal(updated_at, created_at);
    assert.deepEqual(rest, {
      object: 'webhook_endpoint',
      ...wanted,
      signing_secret_hint: `whsec_...${signing_secret.slice(-4)}`,
    });
    assert.deepEqual(await as.own.webhooks.retrieve(id), made);
    assert.deepEqual(await as.own.webhooks.list().then((page) => page.data.find((one) => one.id === id)), made);
    assert.deepEqual(await as.own.webhooks.update(id, {}), made);
  });

  test('changes what it names; updated_at goes on only when that is a change', async () => {
    const { id, ...made } = await as.own.webhooks.create(wanted);
    await age(id);
    const before = await as.own.webhooks.retrieve(id);
    for (const same of [
      {},
      { name: wanted.name },
      { url: wanted.url, event_types: ['batch.failed', 'batch.completed', 'batch.failed'] as never },
    ])
      assert.equal((await as.own.webhooks.update(id, same)).updated_at, before.updated_at, JSON.stringify(same));

    for (const change of [{ name: 'ü' }, { url: 'http://example.org/' }, { event_types: ['batch.expired'] as never }]) {
      const was = await as.own.webhooks.retrieve(id);
      const { updated_at, ...changed } = await as.own.webhooks.update(id, change);
      assert.ok((updated_at as number) > (was.updated_at as number), JSON.stringify(change));
      const { updated_at: _, ...rest } = was;
      assert.deepEqual(changed, { ...rest, ...change });
      await age(id);
    }
    assert.equal((await as.own.webhooks.retrieve(id)).signing_secret_hint, made.signing_secret_hint);
  });

  test('walks through all endpoints, newest first, page by page', async () => {
    const client = await newcomer();
    const empty = await client.webhooks.list();
    assert.deepEqual([empty.data, empty.has_more], [[], false]);
    const made: string[] = [];
    for (let n = 0; n < 5; n++) made.unshift((await client.webhooks.create({ ...wanted, name: `${n}` })).id);
    const walked: string[] = [];
    for await (const endpoint of client.webhooks.list({ limit: 2 })) walked.push(endpoint.id);
    assert.deepEqual(walked, made);

    const key = client.apiKey as string;
    const page = await f.server.request('GET', `${PATH}?limit=2&after=${made[1]}`, undefined, { key });
    assert.deepEqual(Object.keys(page.json), ['object', 'data', 'first_id', 'last_id', 'has_more']);
    assert.deepEqual(
      [page.json.object, page.json.first_id, page.json.last_id, page.json.has_more],
      ['list', made[2], made[3], true],
    );
    assert.equal((await client.webhooks.list({ after: made[2] as string, limit: 2 })).has_more, false);
    assert.ok(!(await f.server.request('GET', PATH, undefined, { key })).text.includes('"signing_secret"'));
  });

  test('walks on after an endpoint that is removed meanwhile', async () => {
    const client = await newcomer();
    for (let n = 0; n < 5; n++) await client.webhooks.create({ ...wanted, name: `${n}` });
    for await (const endpoint of client.webhooks.list({ limit: 2 })) await client.webhooks.delete(endpoint.id);
    assert.deepEqual((await client.webhooks.list()).data, []);
  });

  test('removes an endpoint, once', async () => {
    const { id } = await as.own.webhooks.create(wanted);
    assert.deepEqual(await as.own.webhooks.delete(id), { id, object: 'webhook_endpoint.deleted', deleted: true });
    for (const gone of [
      () => as.own.webhooks.delete(id),
      () => as.own.webhooks.retrieve(id),
      () => as.own.webhooks.update(id, { name: 'x' }),
      () => as.own.webhooks.rotateSecret(id),
      () => as.own.webhooks.test(id, { event_type: 'batch.failed' }),
    ])
      await assert.rejects(gone(), (error: unknown) => {
        assert.ok(error instanceof NotFoundError);
        assert.equal(error.message, `404 No webhook endpoint found with id '${id}'.`);
        return true;
      });
  });

  test('rotates a secret', async () => {
    const made = await as.own.webhooks.create(wanted);
    await age(made.id);
    const rotated = await as.own.webhooks.rotateSecret(made.id);
    assert.notEqual(rotated.signing_secret, made.signing_secret);
    assert.equal(rotated.signing_secret_hint, `whsec_...${rotated.signing_secret.slice(-4)}`);
    assert.ok((rotated.updated_at as number) > made.created_at - 100);
    assert.deepEqual(Object.keys(rotated).sort(), Object.keys(made).sort());
    const { signing_secret: _, ...shown } = rotated;
    assert.deepEqual(await as.own.webhooks.retrieve(made.id), shown);
  });

  test('lists the types of events that are sent, all of which it may ask for', async () => {
    const { object, data } = await as.own.webhooks.eventTypes.list();
    assert.deepEqual([object, data], ['list', EVENTS]);
    const made = await as.own.webhooks.create({ ...wanted, event_types: data as never });
    assert.deepEqual(made.event_types, EVENTS);
  });
});

describe('another tenant', () => {
  test('neither sees an endpoint nor touches it; an admin key does both', async () => {
    const { id } = await as.own.webhooks.create(wanted);
    const before = await as.own.webhooks.retrieve(id);
    for (const touch of [
      () => as.other.webhooks.retrieve(id),
      () => as.other.webhooks.update(id, { name: 'mine' }),
      () => as.other.webhooks.rotateSecret(id),
      () => as.other.webhooks.test(id, { event_type: 'batch.completed' }),
      () => as.other.webhooks.delete(id),
    ])
      await assert.rejects(touch(), NotFoundError);
    assert.deepEqual((await as.other.webhooks.list()).data, []);
    assert.deepEqual((await as.other.webhooks.list({ after: 'whe_7fffffff00000000000000' })).data, []);
    assert.deepEqual(await as.own.webhooks.retrieve(id), before);

    assert.deepEqual(await as.admin.webhooks.retrieve(id), before);
    const stranger = await (await newcomer()).webhooks.create(wanted);
    const seen = (await as.admin.webhooks.list({ limit: 100 })).data.map((endpoint) => endpoint.id);
    assert.ok(seen.includes(id) && seen.includes(stranger.id));
    await as.admin.webhooks.delete(stranger.id);
    // admin acts for its own tenant, which is that of f.keys.client
    const made = await as.admin.webhooks.create(wanted);
    assert.equal((await as.own.webhooks.retrieve(made.id)).id, made.id);
  });
});

describe('a test of an endpoint', () => {
  test('sends a sample that verifies, and tells how it was answered', async () => {
    const receiver = await startReceiver();
    try {
      const { id, signing_secret } = await as.own.webhooks.create({
        ...wanted,
        url: receiver.url('/hook?x=1'),
        event_types: ['batch.failed'],
      });
      await age(id);
      const before = await as.own.webhooks.retrieve(id);
      for (const [status, event_type] of [
        [204, 'batch.failed'],
        [500, 'batch.completed'],
        [302, 'batch.expired'],
        [401, 'batch.cancelled'],
      ] as const) {
        const testing = as.own.webhooks.test(id, { event_type });
        const sample = await receiver.next();
        sample.answer(status, { Location: receiver.url('/elsewhere') });
        assert.deepEqual(await testing, {
          object: 'webhook_endpoint.test',
          webhook_endpoint_id: id,
          event_type,
          success: true,
          status_code: status,
        });
        assert.equal(sample.path, '/hook?x=1');
        const event = await as.own.webhooks.unwrap(
          sample.body,
          sample.headers as Record<string, string>,
          signing_secret,
        );
        assert.equal(event.type, event_type);
        assert.match((event.data as { id: string }).id, /^BATCH-/);
      }
      assert.equal(receiver.count, 4, 'each is sent once');
      assert.deepEqual(await as.own.webhooks.retrieve(id), before);
      const { json } = await f.client('GET', '/v1/callbacks?limit=1000');
      assert.ok(!json.data.some((one: { webhook_endpoint_id: string }) => one.webhook_endpoint_id === id));
    } finally {
      await receiver.close();
    }
  });

  test('that nobody takes is an error, which the client does not ask for again', async () => {
    const receiver = await startReceiver();
    const { id } = await as.own.webhooks.create({ ...wanted, url: receiver.url() });
    await receiver.close();
    let asked = 0;
    const counting = new OpenAI({
      apiKey: f.keys.client,
      baseURL: `${f.server.url}/v1`,
      fetch: (...args) => {
        asked++;
        return fetch(...args);
      },
    });
    await assert.rejects(counting.webhooks.test(id, { event_type: 'batch.completed' }), (error: unknown) => {
      assert.ok(error instanceof APIError);
      assert.equal(error.status, 502);
      assert.equal(error.code, 'webhook_endpoint_unreachable');
      assert.match(error.message, /could not be reached: .*ECONNREFUSED/);
      return true;
    });
    assert.equal(asked, 1);
  });
});

describe('what can not be is refused in the words of OpenAI', () => {
  const SUPPORTED = EVENTS.map((name) => `'${name}'`);
  const listed = `${SUPPORTED.slice(0, 3).join(', ')}, and ${SUPPORTED[3]}`;
  const cases: [change: object, param: string, code: string, message: RegExp][] = [
    [{ name: undefined }, 'name', 'missing_required_parameter', /^Missing required parameter: 'name'\.$/],
    [{ name: '' }, 'name', 'empty_string', /minimum length 1/],
    [{ name: 'x'.repeat(257) }, 'name', 'string_above_max_length', /maximum length 256/],
    [{ name: 7 }, 'name', 'invalid_type', /expected a string, but got a number/],
    [{ name: 'a\0b' }, 'name', 'invalid_value', /NUL/],
    [{ url: undefined }, 'url', 'missing_required_parameter', /'url'/],
    [{ url: 'no url' }, 'url', 'invalid_value', /^Invalid 'url': not a valid URL\.$/],
    [{ url: 'ftp://example.com/' }, 'url', 'invalid_value', /neither http nor https/],
    [{ url: 'https://me:secret@example.com/' }, 'url', 'invalid_value', /credentials/],
    [{ url: 'https://10.1.2.3/' }, 'url', 'invalid_value', /10\.1\.2\.3 is not permitted/],
    [{ url: 'https://169.254.169.254/' }, 'url', 'invalid_value', /is not permitted/],
    [{ url: 'http://[fe80::1]/' }, 'url', 'invalid_value', /is not permitted/],
    [{ url: `https://example.com/${'x'.repeat(2048)}` }, 'url', 'string_above_max_length', /maximum length 2048/],
    [{ url: 'https://example.com/\0' }, 'url', 'invalid_value', /NUL/],
    [{ event_types: undefined }, 'event_types', 'missing_required_parameter', /'event_types'/],
    [{ event_types: [] }, 'event_types', 'array_below_min_length', /minimum length 1/],
    [{ event_types: 'batch.completed' }, 'event_types', 'invalid_type', /expected an array, but got a string/],
    [
      { event_types: ['batch.completed', 'response.completed'] },
      'event_types.1',
      'invalid_value',
      RegExp(`^Invalid value: 'response.completed'\\. Supported values are: ${listed}\\.$`),
    ],
    [
      { event_types: Array(101).fill('batch.completed') },
      'event_types',
      'array_above_max_length',
      /maximum length 100/,
    ],
  ];

  test('at a create', async () => {
    for (const [change, ...told] of cases)
      assertRefused(await f.client('POST', PATH, { ...wanted, ...change }), 400, ...told);
  });

  test('at an update, which then changes nothing', async () => {
    const { id } = await as.own.webhooks.create(wanted);
    const before = await as.own.webhooks.retrieve(id);
    for (const [change, ...told] of cases) {
      if (Object.values(change)[0] === undefined) continue;
      assertRefused(await f.client('POST', `${PATH}/${id}`, { name: 'new', ...change }), 400, ...told);
    }
    assert.deepEqual(await as.own.webhooks.retrieve(id), before);
  });

  test('at a rotation, a test and a list', async () => {
    const { id } = await as.own.webhooks.create(wanted);
    const keep = 'keep_old_secret_active_for_24_hours';
    assertRefused(
      await f.client('POST', `${PATH}/${id}/rotate_secret`, { [keep]: 'yes' }),
      400,
      keep,
      'invalid_type',
      /boolean/,
    );
    assertRefused(
      await f.client('POST', `${PATH}/${id}/test`, {}),
      400,
      'event_type',
      'missing_required_parameter',
      /event_type/,
    );
    assertRefused(
      await f.client('POST', `${PATH}/${id}/test`, { event_type: 'video.failed' }),
      400,
      'event_type',
      'invalid_value',
      RegExp(listed),
    );
    assertRefused(await f.client('GET', `${PATH}?limit=101`), 400, 'limit', 'integer_above_max_value', /<= 100/);
    assertRefused(await f.client('GET', `${PATH}?limit=0`), 400, 'limit', 'integer_below_min_value', />= 1/);
    assertRefused(
      await f.client('GET', `${PATH}?after=whe_0`),
      400,
      'after',
      'invalid_value',
      /^Invalid 'after': 'whe_0'/,
    );
    assert.equal((await f.client('GET', `${PATH}?after=`)).status, 200);
  });

  test('by an id that is none', async () => {
    for (const id of [NOBODY, 'whe_', 'x', '1', '%00', 'whe_%00', 'x'.repeat(3000)])
      assertRefused(await f.client('GET', `${PATH}/${id}`), 404, null, null, /^No webhook endpoint found with id '/);
  });

  test('by a body that is left out, unless all of it may be', async () => {
    const { id, ...made } = await as.own.webhooks.create(wanted);
    assert.equal((await f.client('POST', PATH)).status, 400);
    assert.equal((await f.client('POST', `${PATH}/${id}/test`)).status, 400);
    assert.equal((await f.client('POST', `${PATH}/${id}`)).json.name, wanted.name);
    assert.equal((await f.client('POST', `${PATH}/${id}`, 'null')).json.name, wanted.name);
    const rotated = await f.client('POST', `${PATH}/${id}/rotate_secret`);
    assert.notEqual(rotated.json.signing_secret, made.signing_secret);
  });

  test('beyond 100 endpoints of a tenant; there is room again once one is deleted', async () => {
    const client = await newcomer();
    const made = await Promise.all(Array.from({ length: 100 }, () => client.webhooks.create(wanted)));
    const more = () => client.webhooks.create(wanted);
    await assert.rejects(more(), /^Error: 400 You have 100 webhook endpoints, which is the maximum/);
    await as.own.webhooks.create(wanted);
    await client.webhooks.delete((made[0] as { id: string }).id);
    await more();
  });
});
