import dns from 'node:dns';
import http from 'node:http';
import https from 'node:https';
import type { LookupFunction } from 'node:net';
import type { AddressRule } from './address.ts';

const DEFAULT_TIMEOUT_MS = 30_000;
const MAX_RESPONSE_BYTES = 64 * 1024;
const IDLE_SOCKET_MS = 5_000;

export type Callback = {
  url: string;
  headers: Readonly<Record<string, string>>;
  body: string;
  rule: AddressRule;
  /** Bounds the whole exchange, resolving and connecting included; 30,000 by default. */
  timeoutMs?: number;
};

export type CallbackOutcome = { ok: true; status: number } | { ok: false; status?: number; error: string };

// Agents and lookup are one rule's own: a pooled socket was connected through that lookup, or to a literal address,
// which checkUrl judges at every call. So it leads to an address the rule permits, whatever its name now resolves to.
type Route = { lookup: LookupFunction; http: http.Agent; https: https.Agent };
const routes = new WeakMap<AddressRule, Route>();

/**
 * Delivers a callback by POST; 2xx is ok, and redirects are not followed.
 * Never throws. Of the response at most 64 KiB are read, then the socket is closed; a 2xx stays ok whatever becomes of
 * its body.
 */
export async function sendCallback(callback: Callback): Promise<CallbackOutcome> {
  const refusal = callback.rule.checkUrl(callback.url);
  if (refusal !== undefined) return { ok: false, error: `callback URL refused: ${refusal}` };

  const timeoutMs = callback.timeoutMs ?? DEFAULT_TIMEOUT_MS;
  const started = performance.now();
  try {
    const outcome = await exchange(callback, true, timeoutMs);
    if (outcome !== 'stale socket') return outcome;
    const again = await exchange(callback, false, timeoutMs - (performance.now() - started));
    return again === 'stale socket' ? { ok: false, error: 'connection closed' } : again;
  } catch (error) {
    return { ok: false, error: describe(error) };
  }
}

async function exchange(
  { url, headers, body, rule }: Callback,
  pooled: boolean,
  timeoutMs: number,
): Promise<CallbackOutcome | 'stale socket'> {
  const { promise, resolve } = Promise.withResolvers<CallbackOutcome | 'stale socket'>();
  const target = new URL(url);
  const secure = target.protocol === 'https:';
  const route = routeOf(rule);
  const request = (secure ? https : http).request(target, {
    method: 'POST',
    headers: { ...headers, 'Content-Type': 'application/json', 'Content-Length': Buffer.byteLength(body) },
    lookup: route.lookup,
    agent: pooled && (secure ? route.https : route.http),
  });
  let status: number | undefined;
  const timer = setTimeout(() => abandon(`no answer within ${Math.round(timeoutMs)} ms`), timeoutMs);

  function settle(error: string): void {
    clearTimeout(timer);
    if (status === undefined) resolve({ ok: false, error });
    else if (status >= 200 && status < 300) resolve({ ok: true, status });
    else resolve({ ok: false, status, error: `answered ${status}` });
  }
  function abandon(error: string): void {
    settle(error);
    request.destroy();
  }

  request.on('response', (response) => {
    status = response.statusCode;
    let received = 0;
    response.on('data', (chunk: Buffer) => {
      received += chunk.length;
      if (received > MAX_RESPONSE_BYTES) abandon('response too long');
    });
    response.on('error', (error) => abandon(describe(error)));
    response.on('end', () => {
      // A receiver that answers before it has read the body may never read it, and would hold the socket.
      if (request.writableFinished) settle('');
      else abandon('');
    });
  });
  request.on('error', (error: NodeJS.ErrnoException) => {
    // The receiver closed an idle socket just as it was picked again. Should it have read the request nevertheless, it
    // sees the same webhook-id twice, which at-least-once delivery allows.
    const closed = error.code === 'ECONNRESET' || error.code === 'EPIPE';
    if (closed && request.reusedSocket && status === undefined) {
      clearTimeout(timer);
      resolve('stale socket');
    }
    settle(describe(error));
  });
  request.on('close', () => settle('connection closed'));
  request.end(body);
  return promise;
}

function routeOf(rule: AddressRule): Route {
  let route = routes.get(rule);
  if (route === undefined) {
    const options = { keepAlive: true, timeout: IDLE_SOCKET_MS };
    route = { lookup: permittedLookup(rule), http: new http.Agent(options), https: new https.Agent(options) };
    routes.set(rule, route);
  }
  return route;
}

// What it answers is what the socket connects to: a name that resolves differently later (DNS rebinding) gains nothing.
function permittedLookup(rule: AddressRule): LookupFunction {
  return (hostname, options, done) => {
    dns.lookup(hostname, { ...options, all: true }, (error, addresses) => {
      if (error !== null) return done(error, '');
      const permitted = addresses.filter(({ address }) => rule.permits(address));
      const [first] = permitted;
      // Without the address: tenants read this, and internal addresses are not theirs to learn.
      if (first === undefined) return done(new Error(`${hostname} resolves to no permitted address`), '');
      if (options.all === true) return done(null, permitted);
      return done(null, first.address, first.family);
    });
  };
}

// Where several addresses of a name failed, Node gives an AggregateError without a message.
function describe(error: unknown): string {
  if (error instanceof AggregateError) return error.errors.map(describe).join('; ');
  return error instanceof Error ? error.message : String(error);
}
