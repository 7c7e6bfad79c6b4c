import assert from 'node:assert/strict';
import dns from 'node:dns';
import { once } from 'node:events';
import http from 'node:http';
import net, { type AddressInfo } from 'node:net';
import { describe, it, type TestContext } from 'node:test';
import { createAddressRule } from '../../server/callbacks/address.ts';
import { type Callback, sendCallback } from '../../server/callbacks/send.ts';

const loopback = createAddressRule({ allow: [], allowLoopback: true });
const strict = createAddressRule({ allow: [], allowLoopback: false });

async function listen(t: TestContext, server: net.Server, host = '127.0.0.1', port = 0): Promise<number> {
  const sockets = new Set<net.Socket>();
  server.on('connection', (socket: net.Socket) => sockets.add(socket));
  server.listen(port, host);
  await once(server, 'listening');
  t.after(() => {
    for (const socket of sockets) socket.destroy();
    server.close();
  });
  return (server.address() as AddressInfo).port;
}

/** A receiver that reads each request to its end and then leaves the answer to `answer`. */
async function receiver(
  t: TestContext,
  answer: (response: http.ServerResponse, request: http.IncomingMessage) => void = (response) => response.end(),
) {
  const requests: {
    url: string | undefined;
    method: string | undefined;
    headers: http.IncomingHttpHeaders;
    body: string;
  }[] = [];
  let connections = 0;
  const server = http.createServer(async (request, response) => {
    const chunks: Buffer[] = [];
    for await (const chunk of request) chunks.push(chunk as Buffer);
    requests.push({
      url: request.url,
      method: request.method,
      headers: request.headers,
      body: Buffer.concat(chunks).toString(),
    });
    answer(response, request);
  });
  server.on('connection', () => connections++);
  const port = await listen(t, server);
  return { requests, port, url: `http://127.0.0.1:${port}/cb?x=1`, connections: () => connections };
}

function resolveTo(t: TestContext, ...addresses: string[]): { calls: () => number } {
  const mocked = t.mock.method(
    dns,
    'lookup',
    (_name: string, _options: unknown, done: (...answer: unknown[]) => void) => {
      process.nextTick(
        done,
        null,
        addresses.map((address) => ({ address, family: net.isIP(address) })),
      );
    },
  );
  return { calls: () => mocked.mock.callCount() };
}

function send(url: string, more: Partial<Callback> = {}) {
  return sendCallback({ url, headers: {}, body: '{"a":1.0}', rule: loopback, ...more });
}

describe('sendCallback', () => {
  it('POSTs the body byte for byte with the given headers', async (t) => {
    const { url, requests } = await receiver(t);
    const body = '{"b":1.0, "a":"狐狸 😀"}';
    const outcome = await send(url, { body, headers: { 'webhook-id': 'TASK-1', 'X-TASK-ID': 'TASK-1' } });
    assert.deepEqual(outcome, { ok: true, status: 200 });
    assert.equal(requests.length, 1);
    const [request] = requests;
    assert.equal(request?.method, 'POST');
    assert.equal(request?.url, '/cb?x=1');
    assert.equal(request?.body, body);
    assert.equal(request?.headers['content-type'], 'application/json');
    assert.equal(request?.headers['content-length'], String(Buffer.byteLength(body)));
    assert.equal(request?.headers['webhook-id'], 'TASK-1');
    assert.equal(request?.headers['x-task-id'], 'TASK-1');
  });

  for (const status of [200, 201, 202, 204, 299]) {
    it(`takes ${status} as delivered`, async (t) => {
      const { url } = await receiver(t, (response) => response.writeHead(status).end());
      assert.deepEqual(await send(url), { ok: true, status });
    });
  }

  for (const status of [304, 400, 404, 410, 429, 500, 503]) {
    it(`takes ${status} as not delivered`, async (t) => {
      const { url } = await receiver(t, (response) => response.writeHead(status).end());
      assert.deepEqual(await send(url), { ok: false, status, error: `answered ${status}` });
    });
  }

  for (const status of [301, 302, 307, 308]) {
    it(`does not follow a ${status}`, async (t) => {
      const { url, requests } = await receiver(t, (response) =>
        response.writeHead(status, { Location: '/other' }).end(),
      );
      assert.deepEqual(await send(url), { ok: false, status, error: `answered ${status}` });
      assert.equal(requests.length, 1);
    });
  }

  it('refuses a URL that the rule refuses, without connecting', async (t) => {
    const { port, connections } = await receiver(t);
    for (const host of ['127.0.0.1', '2130706433', '[::ffff:127.0.0.1]', 'user@localhost']) {
      const outcome = await send(`http://${host}:${port}/`, { rule: strict });
      assert.match(outcome.ok ? '' : outcome.error, /^callback URL refused/);
    }
    assert.equal(connections(), 0);
  });

  it('refuses a name that resolves to loopback, and keeps the address to itself', async (t) => {
    const { port, connections } = await receiver(t);
    assert.deepEqual(await send(`http://localhost:${port}/`, { rule: strict }), {
      ok: false,
      error: 'localhost resolves to no permitted address',
    });
    assert.equal(connections(), 0);
  });

  it('connects to the very address that was checked, resolving once', async (t) => {
    const { port, requests } = await receiver(t);
    const { calls } = resolveTo(t, '127.0.0.1');
    assert.deepEqual(await send(`http://receiver.test:${port}/`), { ok: true, status: 200 });
    assert.equal(calls(), 1);
    assert.equal(requests[0]?.headers.host, `receiver.test:${port}`);
  });

  it('connects only to the permitted ones of several addresses', async (t) => {
    const { port, requests } = await receiver(t);
    let forbidden = 0;
    await listen(
      t,
      net.createServer(() => forbidden++),
      '127.0.0.2',
      port,
    );
    resolveTo(t, '127.0.0.2', '10.0.0.1', '127.0.0.1');
    const rule = createAddressRule({ allow: ['127.0.0.1'], allowLoopback: false });
    assert.deepEqual(await send(`http://receiver.test:${port}/`, { rule }), { ok: true, status: 200 });
    assert.equal(requests.length, 1);
    assert.equal(forbidden, 0);
  });

  it('checks a lookup for a single address as well', async (t) => {
    const { port } = await receiver(t);
    const before = net.getDefaultAutoSelectFamily();
    net.setDefaultAutoSelectFamily(false);
    t.after(() => net.setDefaultAutoSelectFamily(before));
    resolveTo(t, '127.0.0.1');
    assert.deepEqual(await send(`http://receiver.test:${port}/`), { ok: true, status: 200 });
    assert.equal((await send(`http://receiver.test:${port}/`, { rule: strict })).ok, false);
  });

  it('reuses a socket under one rule and never under another', async (t) => {
    const { port, connections, requests } = await receiver(t);
    resolveTo(t, '127.0.0.1');
    const rule = createAddressRule({ allow: [], allowLoopback: true });
    for (let i = 0; i < 3; i++) assert.equal((await send(`http://receiver.test:${port}/`, { rule })).ok, true);
    assert.equal(connections(), 1);
    assert.equal((await send(`http://receiver.test:${port}/`, { rule: strict })).ok, false);
    assert.equal(requests.length, 3);
  });

  it('tries again on a new socket when the receiver has closed the reused one', async (t) => {
    let connections = 0;
    const server = net.createServer((socket) => {
      const isFirst = ++connections === 1;
      let requests = 0;
      socket.on('data', () => {
        if (isFirst && ++requests === 2) socket.resetAndDestroy();
        else socket.write('HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n');
      });
      socket.on('error', () => {});
    });
    const url = `http://127.0.0.1:${await listen(t, server)}/`;
    assert.deepEqual(await send(url), { ok: true, status: 200 });
    assert.deepEqual(await send(url), { ok: true, status: 200 });
    assert.equal(connections, 2);
  });

  it('gives up on a receiver that does not answer in time', async (t) => {
    const { url } = await receiver(t, () => {});
    assert.deepEqual(await send(url, { timeoutMs: 40 }), { ok: false, error: 'no answer within 40 ms' });
  });

  it('gives up on a name that does not resolve in time', async (t) => {
    t.mock.method(dns, 'lookup', () => {});
    const outcome = await send('http://receiver.test/', { timeoutMs: 40 });
    assert.deepEqual(outcome, { ok: false, error: 'no answer within 40 ms' });
  });

  it('goes by the status when the rest of the response does not come', async (t) => {
    for (const [status, outcome] of [
      [200, { ok: true, status: 200 }],
      [500, { ok: false, status: 500, error: 'answered 500' }],
    ] as const) {
      const stalled = await receiver(t, (response) => response.writeHead(status).write('begins'));
      assert.deepEqual(await send(stalled.url, { timeoutMs: 500 }), outcome);
      const cut = await receiver(t, (response) => {
        response.writeHead(status).write('begins', () => response.socket?.resetAndDestroy());
      });
      assert.deepEqual(await send(cut.url), outcome);
    }
  });

  it('closes the socket of a response that goes on past 64 KiB', async (t) => {
    const closed = Promise.withResolvers<void>();
    const chunk = Buffer.alloc(16 * 1024, 'a');
    const { url } = await receiver(t, (response) => {
      const more = (): void => {
        while (!response.destroyed && response.write(chunk));
      };
      response.on('drain', more);
      response.on('close', closed.resolve);
      more();
    });
    assert.deepEqual(await send(url), { ok: true, status: 200 });
    await closed.promise;
  });

  it('closes the socket of a receiver that answers without reading the request', async (t) => {
    const accepted = Promise.withResolvers<net.Socket>();
    const server = net.createServer((socket) => {
      socket.on('error', () => {});
      socket.once('data', () => {
        socket.pause();
        accepted.resolve(socket);
      });
      socket.write('HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\n\r\n');
    });
    const url = `http://127.0.0.1:${await listen(t, server)}/`;
    const body = JSON.stringify('a'.repeat(30_000_000));
    assert.deepEqual(await send(url, { body }), { ok: false, status: 413, error: 'answered 413' });
    const socket = await accepted.promise;
    const closed = once(socket, 'close');
    socket.resume();
    await closed;
    assert.ok(socket.bytesRead < body.length);
  });

  it('tells of a refused connection, of nonsense, of an upgrade and of a plain server behind https', async (t) => {
    const closed = net.createServer();
    closed.listen(0, '127.0.0.1');
    await once(closed, 'listening');
    const { port } = closed.address() as AddressInfo;
    closed.close();
    await once(closed, 'close');
    const refused = await send(`http://127.0.0.1:${port}/`);
    assert.match(refused.ok ? '' : refused.error, /ECONNREFUSED/);

    for (const answer of [
      'nonsense\r\n\r\n',
      'HTTP/1.1 101 Switching\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n',
      '',
    ]) {
      const odd = net.createServer((socket) => {
        socket.on('error', () => {});
        socket.once('data', () => socket.end(answer));
      });
      const url = `127.0.0.1:${await listen(t, odd)}/`;
      const outcome = await send(`http://${url}`, { timeoutMs: 5_000 });
      assert.ok(!outcome.ok && outcome.error !== '' && !outcome.error.startsWith('no answer'), JSON.stringify(outcome));
    }
    const plain = await receiver(t);
    const outcome = await send(plain.url.replace('http:', 'https:'));
    assert.ok(!outcome.ok && outcome.error !== '');
  });

  it('names every failure when all addresses of a name refuse', async (t) => {
    const { port } = await receiver(t);
    resolveTo(t, '127.0.0.2', '127.0.0.3');
    const outcome = await send(`http://receiver.test:${port}/`);
    assert.match(outcome.ok ? '' : outcome.error, /127\.0\.0\.2.*; .*127\.0\.0\.3/);
  });

  it('does not throw over headers that HTTP cannot carry', async (t) => {
    const { url, requests } = await receiver(t);
    const outcome = await send(url, { headers: { 'X-TASK-ID': 'a\r\nX-Evil: b' } });
    assert.ok(!outcome.ok && outcome.error !== '');
    assert.equal(requests.length, 0);
  });
});
