import { createServer, type RequestListener, type Server, type ServerResponse } from 'node:http';
import type { AddressInfo, Socket } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import { giveUp } from './give-up.ts';

/** SIGTERM gives clients that wait this long; systemd and Kubernetes kill after 30 s. */
const DRAIN_MS = 25_000;
/** What those that still wait are told then has so long to go out. */
const LAST_WORDS_MS = 500;
/** A request may take this long to come in: a large file over a slow line does. Who sends one has shown a key, or was answered before. */
const REQUEST_MS = 3_600_000;
const IDLE_LOOK_MS = 50;

export type HttpServer = {
  server: Server;
  port: number;
  /** Answers requests from now on; until then they get 503. */
  serve(listener: RequestListener): void;
  /**
   * Takes no more connections, closes each with its next reply, and resolves when those that are being answered are through. Who still waits after 25 s
   * is told to come again.
   */
  drain(): Promise<void>;
};

/** Listens on `host` and `port` (0: any free one). Throws when the port is taken. */
export async function openHttpServer(host: string, port: number): Promise<HttpServer> {
  let listener: RequestListener = (_req, res) => {
    const body = JSON.stringify({ code: 503, message: 'the server is starting', timestamp: Date.now() });
    res.writeHead(503, { 'Content-Type': 'application/json', 'Retry-After': '1' }).end(body);
  };
  const server = createServer(
    {
      keepAliveTimeout: 72_000,
      headersTimeout: 80_000,
      requestTimeout: REQUEST_MS,
      noDelay: true,
      // Java's HttpClient offers h2c with every request: what asks for another protocol is an ordinary request.
      shouldUpgradeCallback: (req) => req.headers.upgrade?.toLowerCase() === 'websocket',
    },
    (req, res) => {
      answering.set(req.socket, res);
      if (draining) res.shouldKeepAlive = false;
      listener(req, res);
    },
  );
  let draining = false;
  /** Every connection, with the reply that it had, or has, last. */
  const answering = new Map<Socket, ServerResponse | undefined>();
  server.on('connection', (socket: Socket) => {
    answering.set(socket, undefined);
    socket.once('close', () => answering.delete(socket));
  });
  await new Promise<void>((resolve, reject) => {
    server.once('error', (error: NodeJS.ErrnoException) => {
      const taken = error.code === 'EADDRINUSE';
      reject(taken ? new Error(`${host} port ${port} is taken by another program: set PORT`) : error);
    });
    server.listen(port, host, 4096, resolve);
  });

  return {
    server,
    port: (server.address() as AddressInfo).port,
    serve(app) {
      listener = app;
    },
    async drain() {
      draining = true;
      const closed = new Promise((resolve) => server.close(resolve));
      for (const [socket, res] of answering) {
        if (res && !res.headersSent) res.shouldKeepAlive = false;
        // Browsers, pools and load balancers connect ahead; what has asked nothing yet does not count as idle.
        else if (socket.bytesRead === 0) socket.destroy();
      }
      // close() ends the connections that are idle now; those that answer something first would be kept alive.
      const idle = setInterval(() => server.closeIdleConnections(), IDLE_LOOK_MS);
      const late = setTimeout(async () => {
        for (const res of answering.values()) if (res) giveUp(res);
        await sleep(LAST_WORDS_MS);
        server.closeAllConnections();
      }, DRAIN_MS);
      await closed;
      clearInterval(idle);
      clearTimeout(late);
    },
  };
}
