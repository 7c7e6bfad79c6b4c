import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import OpenAI from 'openai';
import { newCallbackSecret, signCallback } from '../../server/callbacks/sign.ts';

const { webhooks } = new OpenAI({ apiKey: 'unused' });
const now = () => Math.floor(Date.now() / 1000);

function headersOf(delivery: Parameters<typeof signCallback>[0]): Record<string, string> {
  return {
    'webhook-id': delivery.id,
    'webhook-timestamp': String(delivery.timestamp),
    'webhook-signature': signCallback(delivery),
  };
}

describe('signCallback', () => {
  it('gives the signature of the Standard Webhooks test vector', () => {
    const signature = signCallback({
      secrets: ['whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw'],
      id: 'msg_p5jXN8AQM9LWM0D4loKWxJek',
      timestamp: 1614265330,
      body: '{"test": 2432232314}',
    });
    assert.equal(signature, 'v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=');
  });

  it('is accepted by the openai client', async () => {
    const secret = newCallbackSecret();
    const delivery = {
      secrets: [secret],
      id: 'TASK-1',
      timestamp: now(),
      body: '{"text":"héllo 狐狸 😀","n":1.0}',
    };
    assert.deepEqual(await webhooks.unwrap(delivery.body, headersOf(delivery), secret), {
      text: 'héllo 狐狸 😀',
      n: 1,
    });
  });

  it('covers body, id, timestamp and secret', async () => {
    const secret = newCallbackSecret();
    const delivery = { secrets: [secret], id: 'TASK-1', timestamp: now(), body: '{"a":1}' };
    const headers = headersOf(delivery);
    const { body } = delivery;
    await webhooks.verifySignature(body, headers, secret);
    await assert.rejects(webhooks.verifySignature('{"a":2}', headers, secret));
    await assert.rejects(webhooks.verifySignature(body, { ...headers, 'webhook-id': 'TASK-2' }, secret));
    const later = String(delivery.timestamp + 1);
    await assert.rejects(webhooks.verifySignature(body, { ...headers, 'webhook-timestamp': later }, secret));
    await assert.rejects(webhooks.verifySignature(body, headers, newCallbackSecret()));
  });

  it('signs with each of several secrets, any of which verifies', async () => {
    const secrets = [newCallbackSecret(), newCallbackSecret()];
    const delivery = { secrets, id: 'evt_1', timestamp: now(), body: '{"a":1}' };
    const headers = headersOf(delivery);
    assert.match(headers['webhook-signature'] as string, /^v1,[A-Za-z0-9+/]{43}= v1,[A-Za-z0-9+/]{43}=$/);
    for (const secret of secrets) await webhooks.verifySignature(delivery.body, headers, secret);
    await assert.rejects(webhooks.verifySignature(delivery.body, headers, newCallbackSecret()));
  });

  it('refuses a secret of another form', () => {
    assert.throws(() => signCallback({ secrets: ['hunter2'], id: 'a', timestamp: 1, body: '' }), /whsec_/);
  });
});

describe('newCallbackSecret', () => {
  it('is 32 random bytes in base64', () => {
    const secret = newCallbackSecret();
    assert.match(secret, /^whsec_[A-Za-z0-9+/]{43}=$/);
    assert.notEqual(secret, newCallbackSecret());
  });
});
