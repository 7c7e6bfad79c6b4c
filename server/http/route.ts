import { randomUUID } from 'node:crypto';
import type { IncomingMessage, ServerResponse } from 'node:http';
import type { Router } from 'express';
import type { Logger } from 'pino';
import type { z } from 'zod';
import type { Auth, Principal } from '../auth/auth.ts';
import { bellaIds } from '../protocol/bella-ids.ts';
import { badRequest, invalid, TasklaneError } from '../protocol/errors.ts';
import { MalformedJson, parseJson } from '../protocol/json.ts';
import type { Role } from '../protocol/keys.ts';
import { invalidParameter, refuse } from '../protocol/openai.ts';
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
  req: IncomingMessage;
  res: ServerResponse;
};

export type Route = {
  /** Whose envelopes and identifying headers the answers have; the Task API's where none is said. */
  api?: 'openai';
  method: 'get' | 'post' | 'patch' | 'delete';
  path: string;
  summary: string;
  roles: readonly Role[];
  body: z.ZodType | undefined;
  query: z.ZodType | undefined;
  /** What it takes as multipart/form-data: told in its description, and read by `handle` itself. */
  form?: z.ZodType;
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

/** Paths of one task; what stands between is its id. */
const TASK_PATH = /^(\/v1\/queue\/)(TASK-[\w-]+)((?:\/[a-z]+)?)$/;

/**
 * Lets Express answer the routes. Gives a short cut for those that need no matching, by fixed paths and for one task, which says whether it
 * answers a request. (Matching, and dressing up req and res, was 30 of the 115 µs that a put took the server.)
 */
export function mount(
  router: Router,
  routes: readonly Route[],
  deps: { auth: Auth; log: Logger; maxBodyBytes: number },
): (req: IncomingMessage, res: ServerResponse) => boolean {
  const { auth, log, maxBodyBytes } = deps;
  const direct = new Map<
    string,
    (req: IncomingMessage, res: ServerResponse, params: Record<string, string>) => unknown
  >();
  for (const one of routes) {
    const answer = async (req: IncomingMessage, res: ServerResponse, params: Record<string, string>): Promise<void> => {
      if (one.api) answerAsOpenAi(res);
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
          body = validate(one, one.body, none ? undefined : parseJson(text), 'the body');
        }
        const query =
          one.query && validate(one, one.query, Object.fromEntries(new URLSearchParams(queryString(req))), 'the query');
        const reply = await one.handle({
          principal,
          params,
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
    };
    router[one.method](one.path, (req, res) => answer(req, res, req.params as Record<string, string>));
    direct.set(`${one.method.toUpperCase()} ${one.path}`, answer);
  }
  for (const path of new Set(routes.filter((one) => one.api).map((one) => one.path))) {
    const methods = routes.filter((one) => one.path === path).map((one) => one.method.toUpperCase());
    router.all(path, (req, res) => {
      answerAsOpenAi(res);
      const refused = refuse(
        405,
        `Not allowed to ${req.method} on ${req.path}. (HINT: Perhaps you meant to make a ${methods.join(' or a ')} request instead?)`,
        null,
        'method_not_supported',
      );
      refused.headers.Allow = methods.join(', ');
      sendError(res, refused, log);
    });
  }
  return (req, res) => {
    const url = req.url as string;
    if (url.includes(':')) return false; // it could pose as the name of a parameter
    const [, before, id, after] = TASK_PATH.exec(url) ?? [];
    const answer = direct.get(`${req.method} ${id === undefined ? url : `${before}:id${after}`}`);
    void answer?.(req, res, id === undefined ? {} : { id });
    return answer !== undefined;
  };
}

const openAis = new WeakSet<ServerResponse>();

/** From here on, this response has OpenAI's envelopes. */
export function answerAsOpenAi(res: ServerResponse): void {
  openAis.add(res);
}

/** Whether it has OpenAI's envelopes. */
export const answersAsOpenAi = (res: ServerResponse): boolean => openAis.has(res);

/** Every response names its request and its trace. */
export function idHeaders(res: ServerResponse): Record<string, string> {
  const headers = bellaIds(res.req.headers);
  return openAis.has(res) ? { ...headers, 'x-request-id': `req_${randomUUID().replaceAll('-', '')}` } : headers;
}

/**
 * Writes a reply in one go, with its length: one object of headers and a string body, which Node joins into a single write.
 * (Headers set one by one and a Buffer body took a fifth more of the server's time in a put.)
 */
export function send(res: ServerResponse, reply: NonNullable<Reply>): void {
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

/** The error envelope of the route's family. What is not meant for callers is logged and shown as 500. */
export function sendError(res: ServerResponse, error: unknown, log: Logger): void {
  const known =
    error instanceof TasklaneError
      ? error
      : error instanceof MalformedJson
        ? badRequest(error.message)
        : new TasklaneError(500, 'internal error');
  if (openAis.has(res)) {
    if (error instanceof MalformedJson)
      known.message = `We could not parse the JSON body of your request. ${error.message}`;
    if (known.status === 401) known.message = unauthorized(res.req);
  }
  const reply = errorReply(res, known);
  const headers = { ...idHeaders(res), ...reply.headers };
  if (known.status >= 500)
    log.error({ err: error, requestId: headers['x-request-id'] ?? headers['X-BELLA-REQUEST-ID'] }, known.message);
  send(res, { ...reply, headers });
}

/** OpenAI's clients would repeat these, to the same end: a conflict stays one, and 408, 499 and 502 say that a task has ended without an answer. */
const FINAL = new Set([408, 409, 499, 502]);

/** An error as the route's family tells it. */
export function errorReply(res: ServerResponse, error: TasklaneError): NonNullable<Reply> {
  const { status, headers } = error;
  if (!openAis.has(res)) return { status, headers, json: errorBody(error) };
  return {
    status,
    headers: FINAL.has(status) ? { 'x-should-retry': 'false', ...headers } : headers,
    json: openAiErrorBody(error),
  };
}

/** What OpenAI says of a missing or a wrong key. */
function unauthorized(req: IncomingMessage): string {
  const key = bearer(req);
  return key === undefined
    ? 'Missing bearer or basic authentication in header'
    : `Incorrect API key provided: ${key.length > 12 ? `${key.slice(0, 3)}…${key.slice(-4)}` : '…'}.`;
}

export function openAiErrorBody({ status, message, openai: { param, code } }: TasklaneError) {
  const type = status === 429 ? 'rate_limit_error' : status >= 500 ? 'server_error' : 'invalid_request_error';
  return { error: { message, type, param, code: status === 429 ? (code ?? 'rate_limit_exceeded') : code } };
}

function errorBody(error: TasklaneError) {
  return {
    code: error.status,
    message: error.message,
    timestamp: Date.now(),
    ...(error.details && { details: error.details }),
  };
}

/** The key that a request carries. */
export function bearer(req: IncomingMessage): string | undefined {
  return /^Bearer +(\S+) *$/i.exec(req.headers.authorization ?? '')?.[1];
}

function queryString(req: IncomingMessage): string {
  const url = req.url as string;
  const mark = url.indexOf('?');
  return mark < 0 ? '' : url.slice(mark + 1);
}

function validate({ api }: Route, schema: z.ZodType, value: unknown, what: string): unknown {
  const parsed = schema.safeParse(value, api && { reportInput: true });
  if (parsed.success) return parsed.data;
  throw api ? invalidParameter(parsed.error) : invalid(what, parsed.error);
}
