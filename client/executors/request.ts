import { Agent as HttpAgent, request as httpRequest, type IncomingMessage } from 'node:http';
import { Agent as HttpsAgent, request as httpsRequest } from 'node:https';

// Not fetch: Node's gives up when no header has come for 300 s, or no byte for as long, and to change that takes a package of its own. A model server
// that does not stream sends its first header when it has its last word.

/** A host that is away does not refuse: it says nothing. */
const CONNECT_MS = 10_000;

const httpAgent = new HttpAgent({ keepAlive: true });
const httpsAgent = new HttpsAgent({ keepAlive: true });

const STALE = Symbol();

/** There is no connection, so nothing can have been done. */
export class Unreachable extends Error {}

export type RequestOptions = { headers: Record<string, string>; body?: string; signal: AbortSignal };

/** The reply, when its head is there. Rejects with Unreachable, or what broke the connection. */
export async function send(method: 'GET' | 'POST', url: URL, options: RequestOptions): Promise<IncomingMessage> {
  const agent = url.protocol === 'https:' ? httpsAgent : httpAgent;
  const reply = await once(method, url, options, agent);
  return reply === STALE ? ((await once(method, url, options, false)) as IncomingMessage) : reply;
}

/** `STALE` when the server had closed the connection while it was idle, before it knew of this request: Python's servers do so after 5 seconds. */
function once(
  method: string,
  url: URL,
  { headers, body, signal }: RequestOptions,
  agent: HttpAgent | false,
): Promise<IncomingMessage | typeof STALE> {
  const secure = url.protocol === 'https:';
  return new Promise((resolve, reject) => {
    let connected = false;
    const length = body === undefined ? {} : { 'Content-Length': Buffer.byteLength(body) };
    const request = (secure ? httpsRequest : httpRequest)(url, {
      method,
      agent,
      // What names no coding says that any will do.
      headers: { 'Accept-Encoding': 'identity', ...headers, ...length },
      signal,
    });
    const timer = setTimeout(
      () => request.destroy(new Error(`no connection within ${CONNECT_MS / 1000} seconds`)),
      CONNECT_MS,
    );
    const connect = () => {
      connected = true;
      clearTimeout(timer);
    };
    request.on('socket', (socket) => {
      if (socket.connecting) socket.once(secure ? 'secureConnect' : 'connect', connect);
      else connect();
    });
    request.on('response', resolve);
    request.on('error', (error: NodeJS.ErrnoException) => {
      clearTimeout(timer);
      const isCut = error.code === 'ECONNRESET' || error.code === 'EPIPE';
      if (request.reusedSocket && isCut && !signal.aborted) resolve(STALE);
      else reject(connected ? error : new Unreachable(reasonOf(error), { cause: error }));
    });
    request.end(body);
  });
}

/** A name with several addresses has an error of several, without a message. */
export const reasonOf = ({ code, message }: NodeJS.ErrnoException): string => message || code || 'unknown';
