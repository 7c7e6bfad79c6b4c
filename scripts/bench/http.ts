import { connect, type Socket } from 'node:net';

export const KEY = 'bench-admin-key-0123456789';

/** A request as it goes over the wire. */
export function requestBytes(
  base: string,
  method: 'GET' | 'POST',
  path: string,
  body: string | null,
  key = KEY,
): Buffer {
  const lines = [`${method} ${path} HTTP/1.1`, `host: ${new URL(base).host}`, `authorization: Bearer ${key}`];
  if (body !== null) lines.push('content-type: application/json', `content-length: ${Buffer.byteLength(body)}`);
  return Buffer.from(`${lines.join('\r\n')}\r\n\r\n${body ?? ''}`);
}

/** Sooner than the server closes a connection that says nothing. */
const IDLE_MS = 30_000;

type Asked = { resolve(body: string): void; reject(error: Error): void };

/**
 * A keep-alive connection for one request at a time. Written on a socket, because the load shares the cores with what it measures: a request
 * cost autocannon 43 µs of CPU here, undici 70, and this 33.
 */
export class Connection {
  private readonly socket: Socket;
  /** When it was last answered. */
  usedAt = performance.now();
  private asked: Asked | undefined;
  private chunks: Buffer[] = [];
  private got = 0;
  /** Of the whole answer; 0 until its head is there. */
  private length = 0;
  private head = '';

  private constructor(socket: Socket) {
    this.socket = socket;
    socket.on('data', (chunk) => this.read(chunk));
    socket.on('error', (error) => this.fail(error));
    socket.on('close', () => this.fail(new Error('a connection was closed')));
  }

  static open(base: string): Promise<Connection> {
    const { hostname: host, port } = new URL(base);
    const socket = connect({ host, port: Number(port), noDelay: true });
    return new Promise((resolve, reject) => {
      socket.once('connect', () => resolve(new Connection(socket)));
      socket.once('error', (error: NodeJS.ErrnoException) =>
        reject(error.code === 'EMFILE' ? new Error('too few files may be open here: ulimit -n 20000') : error),
      );
    });
  }

  /** The body of the answer. Rejects unless that is 200. */
  ask(request: Buffer): Promise<string> {
    return new Promise((resolve, reject) => {
      this.asked = { resolve, reject };
      if (this.socket.destroyed) this.fail(new Error('the connection was closed before'));
      else this.socket.write(request);
    });
  }

  close(): void {
    this.socket.destroy();
  }

  private read(chunk: Buffer): void {
    this.chunks.push(chunk);
    this.got += chunk.length;
    if (this.length === 0) {
      const answer = this.whole();
      const end = answer.indexOf('\r\n\r\n');
      if (end < 0) return;
      this.head = answer.toString('latin1', 0, end + 4);
      this.length = this.head.length + Number(/content-length: (\d+)/i.exec(this.head)?.[1] ?? 0);
    }
    if (this.got < this.length) return;
    const body = this.whole().toString('utf8', this.head.length);
    const { asked, head } = this;
    this.asked = undefined;
    this.usedAt = performance.now();
    this.chunks = [];
    this.got = 0;
    this.length = 0;
    if (head.startsWith('HTTP/1.1 200')) asked?.resolve(body);
    else asked?.reject(new Error(`${head.slice(0, head.indexOf('\r\n'))} ${body}`));
  }

  private whole(): Buffer {
    if (this.chunks.length > 1) this.chunks = [Buffer.concat(this.chunks)];
    return this.chunks[0] as Buffer;
  }

  private fail(error: Error): void {
    this.asked?.reject(error);
    this.asked = undefined;
  }
}

/** Asks over at most so many connections, each opened when it is needed; who comes when all are busy waits in turn. */
export function client(base: string, connections: number) {
  const all = new Set<Connection>();
  const free: Connection[] = [];
  const waiting: ((connection: Connection) => void)[] = [];
  let open = 0;
  const acquire = async (): Promise<Connection> => {
    for (let there = free.pop(); there; there = free.pop()) {
      if (performance.now() - there.usedAt < IDLE_MS) return there;
      there.close();
      all.delete(there);
      open--;
    }
    if (open >= connections) return new Promise((resolve) => waiting.push(resolve));
    open++;
    const connection = await Connection.open(base);
    all.add(connection);
    return connection;
  };
  const ask = async (request: Buffer): Promise<string> => {
    const connection = await acquire();
    try {
      return await connection.ask(request);
    } finally {
      const next = waiting.shift();
      if (next) next(connection);
      else free.push(connection);
    }
  };
  return {
    post: (path: string, body: string, key?: string) => ask(requestBytes(base, 'POST', path, body, key)),
    get: (path: string) => ask(requestBytes(base, 'GET', path, null)),
    close: () => {
      for (const connection of all) connection.close();
    },
  };
}
export type Client = ReturnType<typeof client>;
