import { type IncomingMessage, type Server, STATUS_CODES } from 'node:http';
import type { Duplex } from 'node:stream';
import type { Logger } from 'pino';
import { WebSocket, WebSocketServer } from 'ws';
import type { Auth, Principal } from '../auth/auth.ts';
import { bellaIds } from '../protocol/bella-ids.ts';
import { TasklaneError } from '../protocol/errors.ts';
import { EVENT_BUS_PATH } from '../protocol/events.ts';
import { applyBusEvents } from '../tasks/bus-events.ts';
import type { Tasks } from '../tasks/tasks.ts';
import { createHoldings, isHoldFrame } from './holdings.ts';
import { createSubscription, isFeedFrame } from './subscription.ts';

const PROTOCOL = 'tasklane';
const PING_MS = 20_000;
const CLOSE_MS = 5000;
const AT_ONCE = 500;
/** A socket that sends faster than events are stored is read no further until it has caught up. */
const MAX_WAITING = 5000;
const MAX_WAITING_LENGTH = 8 * 1024 * 1024;

/** The event bus: workers send events over a WebSocket, and clients follow the feed, one JSON a frame; each frame is answered, in order. */
export function attachEventBus(
  server: Server,
  deps: { auth: Auth; tasks: Tasks; log: Logger; maxAnswerBytes: number },
) {
  const { auth, tasks, log } = deps;
  const sockets = new WebSocketServer({
    noServer: true,
    maxPayload: deps.maxAnswerBytes,
    perMessageDeflate: false,
    handleProtocols: (offered) => (offered.has(PROTOCOL) ? PROTOCOL : false),
  });

  server.on('upgrade', async (req, socket: Duplex, head) => {
    socket.on('error', () => undefined);
    try {
      if (req.url?.split('?')[0] !== EVENT_BUS_PATH) throw new TasklaneError(404, 'no such WebSocket');
      const key = keyOf(req);
      const principal = await auth.principal(key);
      sockets.handleUpgrade(req, socket, head, (webSocket) => serve(webSocket, key, principal));
    } catch (error) {
      const known = error instanceof TasklaneError ? error : new TasklaneError(500, 'internal error');
      if (known.status >= 500) log.error({ err: error }, 'could not open a WebSocket');
      refuse(req, socket, known);
    }
  });

  const serve = (socket: WebSocket, key: string | undefined, principal: Principal) => {
    let waiting: string[] = [];
    let waitingBytes = 0;
    let busy = false;
    let alive = true;
    const refusal =
      principal.role === 'client' ? new TasklaneError(403, 'a client key may not send events') : undefined;
    const checkKey = () => auth.principal(key);
    const subscription = createSubscription(socket, { feed: tasks.feed, log, principal, checkKey });

    const holdings = createHoldings(tasks, refusal);
    const isControl = (text: string) => isFeedFrame(text) || isHoldFrame(text);

    /** Applies and answers frames, in order. */
    const answer = async (texts: readonly string[]) => {
      for (let from = 0; from < texts.length; ) {
        const next = texts.findIndex((text, index) => index >= from && isControl(text));
        const to = next < 0 ? texts.length : next;
        if (to > from) {
          const verdicts = await applyBusEvents(tasks, texts.slice(from, to), refusal);
          // Waiting for the last keeps a worker that does not read its answers from filling our memory with them.
          await new Promise((resolve) => {
            for (const [index, { verdict }] of verdicts.entries()) {
              if (verdict.ok) holdings.begun(verdict.taskId);
              socket.send(JSON.stringify(verdict), index === verdicts.length - 1 ? resolve : undefined);
            }
          });
        }
        const control = texts[to];
        if (control !== undefined) {
          if (isHoldFrame(control)) socket.send(JSON.stringify(holdings.apply(control)));
          else await subscription.apply(control);
        }
        from = to + 1;
      }
    };
    const drain = async () => {
      busy = true;
      while (waiting.length > 0) {
        const texts = waiting.slice(0, AT_ONCE);
        waiting = waiting.slice(AT_ONCE);
        waitingBytes = waiting.reduce((sum, text) => sum + text.length, 0);
        // The key may have been revoked since.
        const refused = await checkKey().then(
          () => undefined,
          (error: Error) => error,
        );
        if (refused instanceof TasklaneError && refused.status === 401) {
          waiting = [];
          socket.close(1008, refused.message);
          break;
        }
        await answer(texts);
        socket.resume();
      }
      busy = false;
      if (socket.readyState === WebSocket.CLOSED) holdings.giveBack();
    };
    socket.on('message', (frame) => {
      const text = frame.toString();
      waiting.push(text);
      waitingBytes += text.length;
      if (waiting.length >= MAX_WAITING || waitingBytes >= MAX_WAITING_LENGTH) socket.pause();
      if (!busy) void drain();
    });
    socket.on('pong', () => {
      alive = true;
    });
    socket.on('error', (error) => log.debug({ err: error }, 'a WebSocket failed'));
    const timer = setInterval(() => {
      if (!alive) return socket.terminate();
      alive = false;
      socket.ping();
    }, PING_MS);
    socket.on('close', () => {
      clearInterval(timer);
      // What came before the close is applied first: a task that was begun or answered is not given back.
      if (!busy) holdings.giveBack();
    });
  };

  return {
    stop(): void {
      for (const socket of sockets.clients) socket.close(1001, 'the server is stopping');
      sockets.close();
      // Who does not read does not answer the close either.
      setTimeout(() => {
        for (const socket of sockets.clients) socket.terminate();
      }, CLOSE_MS).unref();
    },
  };
}

/** Answers like any other route of the Task API; there is no Express response to do so before the upgrade. */
function refuse(req: IncomingMessage, socket: Duplex, error: TasklaneError): void {
  const body = JSON.stringify({ code: error.status, message: error.message, timestamp: Date.now() });
  const headers = {
    'Content-Type': 'application/json; charset=utf-8',
    'Content-Length': Buffer.byteLength(body),
    Connection: 'close',
    ...bellaIds(req.headers),
    ...error.headers,
  };
  const lines = Object.entries(headers).map(([name, value]) => `${name}: ${value}\r\n`);
  socket.end(`HTTP/1.1 ${error.status} ${STATUS_CODES[error.status]}\r\n${lines.join('')}\r\n${body}`);
}

/** From the Authorization header or, for browsers, from a subprotocol `bearer.<key>`. */
function keyOf(req: IncomingMessage): string | undefined {
  const header = /^Bearer +(\S+) *$/i.exec(req.headers.authorization ?? '')?.[1];
  if (header !== undefined) return header;
  const offered = (req.headers['sec-websocket-protocol'] ?? '').split(',').map((protocol) => protocol.trim());
  return offered.find((protocol) => protocol.startsWith('bearer.'))?.slice('bearer.'.length);
}
