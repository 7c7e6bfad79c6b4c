import { randomUUID } from 'node:crypto';
import type { Request, Response, Router } from 'express';
import type { Logger } from 'pino';
import type { z } from 'zod';
import type { Auth, Principal } from '../auth/auth.ts';
import { badRequest, invalid, TasklaneError } from '../protocol/errors.ts';
import { MalformedJson, parseJson } from '../protocol/json.ts';
import type { Role } from '../protocol/keys.ts';
import { traceIdOf } from '../protocol/trace.ts';
import { readBody } from './body.ts';

/** What a handler answers: JSON by value or, where it already is text, as it stands. undefined: it has answered itself. */
export type Reply = { status?: number; headers?: Record<string, string>; json?: unknown; text?: string } | undefined;

export type Call<Body, Query> = {
  principal: Principal;
  params: Record<string, string>;
  body: Body;
  /** The body as it came, for payloads that pass through to the letter. */
  text: string;
  query: Query;
  req: Request;
  res: Response;
};

export type Route = {
  method: 'get' | 'post' | 'patch' | 'delete';
  path: string;
  summary: string;
  roles: readonly Role[];
  body: z.ZodType | undefined;
  query: z.ZodType | undefined;
  handle(call: Call<unknown, unknown>): Reply | Promise<Reply>;
};

/** A route as data: its documentation, who may call it, what it takes, and what it does. `admin` may call all. */
export function route<Body extends z.ZodType = z.ZodUndefined, Query extends z.ZodType = z.ZodUndefined>(
  spec: Omit<Route, 'body' | 'query' | 'handle'> & {
    body?: Body;
    query?: Query;
    handle(call: Call<z.output<Body>, z.output<Query>>): Reply | Promise<Reply>;
  },
): Route {
  return { ...spec, body: spec.body, query: spec.query, handle: spec.handle as Route['handle'] };
}

export function mount(
  router: Router,
  routes: readonly Route[],
  deps: { auth: Auth; log: Logger; maxBodyBytes: number },
) {
  const { auth, log, maxBodyBytes } = deps;
  for (const one of routes) {
    router[one.method](one.path, async (req: Request, res: Response) => {
      try {
        const principal = await auth.principal(bearer(req));
        if (principal.role !== 'admin' && !one.roles.includes(principal.role)) {
          throw new TasklaneError(
            403,
            `a ${principal.role} key may not do this: it takes ${[...one.roles, 'admin'].join(' or ')}`,
          );
        }
        let text = '';
        let body: unknown;
        if (one.body) {
          text = await readBody(req, maxBodyBytes);
          // A body of which everything may be left out may be left out itself.
          const none = text === '' && one.body.safeParse(undefined).success;
          body = validate(one.body, none ? undefined : parseJson(text), 'the body');
        }
        const query =
          one.query && validate(one.query, Object.fromEntries(new URLSearchParams(queryString(req))), 'the query');
        const reply = await one.handle({
          principal,
          params: req.params as Record<string, string>,
          body,
          text,
          query,
          req,
          res,
        });
        if (reply) send(res, reply);
      } catch (error) {
        sendError(res, error, log);
      }
    });
  }
}

/** Every response names its request and its trace. */
export function idHeaders(res: Response): Record<string, string> {
  return { 'X-BELLA-REQUEST-ID': randomUUID(), 'X-BELLA-TRACE-ID': traceIdOf(res.req.headers['x-bella-trace-id']) };
}

/**
 * Writes a reply in one go, with its length: one object of headers and a string body, which Node joins into a single write.
 * (Headers set one by one and a Buffer body took a fifth more of the server's time in a put.)
 */
export function send(res: Response, reply: NonNullable<Reply>): void {
  if (res.headersSent) return;
  const text = reply.text ?? (reply.json === undefined ? undefined : JSON.stringify(reply.json));
  const status = reply.status ?? (text === undefined ? 204 : 200);
  if (text === undefined || status === 204 || status === 205 || status === 304) {
    res.writeHead(status, { ...idHeaders(res), ...reply.headers }).end();
    return;
  }
  res
    .writeHead(status, {
      'Content-Type': 'application/json; charset=utf-8',
      'Content-Length': Buffer.byteLength(text),
      ...idHeaders(res),
      ...reply.headers,
    })
    .end(text);
}

/** The error envelope of the Task API. What is not meant for callers is logged and shown as 500. */
export function sendError(res: Response, error: unknown, log: Logger): void {
  const known =
    error instanceof TasklaneError
      ? error
      : error instanceof MalformedJson
        ? badRequest(error.message)
        : new TasklaneError(500, 'internal error');
  const headers = { ...idHeaders(res), ...known.headers };
  if (known.status >= 500) log.error({ err: error, requestId: headers['X-BELLA-REQUEST-ID'] }, known.message);
  send(res, {
    status: known.status,
    headers,
    json: errorBody(known),
  });
}

export function errorBody(error: TasklaneError) {
  return {
    code: error.status,
    message: error.message,
    timestamp: Date.now(),
    ...(error.details && { details: error.details }),
  };
}

/** The key that a request carries. */
export function bearer(req: Request): string | undefined {
  return /^Bearer +(\S+) *$/i.exec(req.headers.authorization ?? '')?.[1];
}

function queryString(req: Request): string {
  const mark = req.url.indexOf('?');
  return mark < 0 ? '' : req.url.slice(mark + 1);
}

function validate(schema: z.ZodType, value: unknown, what: string): unknown {
  const parsed = schema.safeParse(value);
  if (parsed.success) return parsed.data;
  throw invalid(what, parsed.error);
}
