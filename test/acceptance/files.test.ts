import assert from 'node:assert/strict';
import { createHash, randomFillSync } from 'node:crypto';
import { once } from 'node:events';
import { createReadStream, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { type ClientRequest, type IncomingMessage, request } from 'node:http';
import { type AddressInfo, connect, createServer, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import OpenAI from 'openai';
import { createDatabase } from '../support/database.ts';
import { LONG } from '../support/long.ts';
import { formHeaders, multipart } from '../support/multipart.ts';
import { type Server, startServer, until } from '../support/server.ts';
import { Session } from '../support/sql.ts';

const MIB = 1024 * 1024;

let database: Awaited<ReturnType<typeof createDatabase>>;
let session: Session;
let server: Server;
before(async () => {
  database = await createDatabase();
  session = await new Session(database.url).open();
  server = await startServer({ url: database.url });
});
after(async () => {
  await session.client.end();
  await server.stop();
  await database.drop();
});

const filesOf = async (one: Server) => (await one.request('GET', '/v1/files')).json.data;
const left = async () => {
  const [row] = await session.rows<{ files: number; chunks: number }>(
    'select (select count(*)::int from tasklane.file where not ready) as files, (select count(*)::int from tasklane.file_chunk c join tasklane.file f using (file_number) where not f.ready) as chunks',
  );
  return row;
};
const tidy = () => session.run("select tasklane.tidy_files(p_idle => '0') from generate_series(1, 3)");

/** Begins to upload a file and sends 4 MiB of it; resolves when some of it is in the database. */
async function beginUpload(one: Server): Promise<ClientRequest> {
  const sent = request(`${one.url}/v1/files`, {
    method: 'POST',
    headers: { Authorization: `Bearer ${one.adminKey}`, ...formHeaders() },
  });
  sent.on('error', () => undefined);
  const form = multipart([
    { name: 'purpose', value: 'user_data' },
    { name: 'file', value: Buffer.alloc(4 * MIB, 'x'), filename: 'cut.txt' },
  ]);
  sent.write(form.subarray(0, 4 * MIB));
  await until(async () => ((await left())?.chunks ?? 0) > 0);
  return sent;
}

test('files of 30 MB come back to the byte, several at a time, and the server never holds them', LONG, async () => {
  const folder = mkdtempSync(join(tmpdir(), 'tasklane-files-'));
  const path = join(folder, 'large.bin');
  const bytes = randomFillSync(Buffer.alloc(30_000_000));
  writeFileSync(path, bytes);
  const expected = createHash('sha256').update(bytes).digest('hex');
  const client = new OpenAI({ apiKey: server.adminKey, baseURL: `${server.url}/v1`, maxRetries: 0 });
  const peak = () => Number(/VmHWM:\s+(\d+) kB/.exec(readFileSync(`/proc/${server.pid}/status`, 'utf8'))?.[1]) * 1024;

  const atFirst = peak();
  const there = await Promise.all(
    [1, 2, 3].map(async () => {
      const { id } = await client.files.create({ file: createReadStream(path), purpose: 'user_data' });
      const content = await client.files.content(id);
      const hash = createHash('sha256');
      for await (const piece of content.body as unknown as AsyncIterable<Uint8Array>) hash.update(piece);
      await client.files.delete(id);
      return hash.digest('hex');
    }),
  );
  assert.deepEqual(there, [expected, expected, expected]);
  const more = peak() - atFirst;
  assert.ok(more < 150 * MIB, `${Math.round(more / MIB)} MiB more, for 3 × 30 MB`);
  rmSync(folder, { recursive: true });
});

test('a server killed in the middle of an upload leaves nothing that shows, and what is left is removed', async () => {
  const doomed = await startServer({ url: database.url });
  await beginUpload(doomed);
  await doomed.kill('SIGKILL');
  assert.deepEqual(await filesOf(server), []);
  assert.equal((await left())?.files, 1);
  await session.run('select tasklane.tidy_files()');
  assert.equal((await left())?.files, 1, 'it could still be written to');
  await tidy();
  assert.deepEqual(await left(), { files: 0, chunks: 0 });
});

test('an upload that the database fails ends with 503 and Retry-After, and shows nothing', async () => {
  const line = await openLine(database.url);
  const far = await startServer({ url: line.url });
  const sent = await beginUpload(far);
  const answered = once(sent, 'response') as Promise<[IncomingMessage]>;
  await line.cut();
  sent.write(Buffer.alloc(2 * MIB, 'x'));
  const [response] = await answered;
  assert.deepEqual([response.statusCode, response.headers['retry-after']], [503, '1']);
  sent.destroy();
  await line.mend();
  await until(async () => (await far.request('GET', '/health')).status === 200);
  assert.deepEqual(await filesOf(far), []);
  await tidy();
  assert.deepEqual(await left(), { files: 0, chunks: 0 });
  await far.stop();
  await line.cut();
});

test('a download goes on when the database is back', async () => {
  const line = await openLine(database.url);
  const far = await startServer({ url: line.url });
  const bytes = randomFillSync(Buffer.alloc(20 * MIB));
  const form = multipart([
    { name: 'file', value: bytes, filename: 'far.bin' },
    { name: 'purpose', value: 'user_data' },
  ]);
  const { json } = await far.request('POST', '/v1/files', form, { headers: formHeaders() });
  const response = await fetch(`${far.url}/v1/files/${json.id}/content`, {
    headers: { Authorization: `Bearer ${far.adminKey}` },
  });
  const reader = (response.body as ReadableStream<Uint8Array>).getReader();
  const first = await reader.read();
  await line.cut();
  const pieces = [first.value as Uint8Array];
  const rest = (async () => {
    for (let next = await reader.read(); !next.done; next = await reader.read()) pieces.push(next.value);
  })();
  await until(async () => (await far.request('GET', '/health')).status === 503);
  await line.mend();
  await rest;
  assert.ok(Buffer.concat(pieces).equals(bytes));
  await far.stop();
  await line.cut();
});

/** A line to the database that can be cut and mended. */
async function openLine(url: string) {
  const target = new URL(url);
  const sockets = new Set<Socket>();
  const listener = createServer((socket) => {
    const onward = connect(Number(target.port), target.hostname);
    for (const [one, other] of [
      [socket, onward],
      [onward, socket],
    ] as const) {
      sockets.add(one);
      one.on('error', () => undefined).on('close', () => other.destroy());
      one.pipe(other);
    }
  }).listen(0, '127.0.0.1');
  await once(listener, 'listening');
  const { port } = listener.address() as AddressInfo;
  return {
    url: Object.assign(new URL(url), { hostname: '127.0.0.1', port: String(port) }).href,
    async cut(): Promise<void> {
      listener.close();
      for (const socket of sockets) socket.destroy();
      sockets.clear();
      await once(listener, 'close');
    },
    async mend(): Promise<void> {
      listener.listen(port, '127.0.0.1');
      await once(listener, 'listening');
    },
  };
}
