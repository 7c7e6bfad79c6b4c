import { answerHeaders } from '../../server/protocol/answer-headers.ts';
import { retryAfterOf } from '../errors.ts';
import { JsonText, type TaskAnswer } from '../worker/executor.ts';
import type { Went } from './breaker.ts';
import { wholeOf } from './reply-text.ts';

const LONGEST_RETRY_AFTER_SECONDS = 3600;
const LONGEST_MESSAGE = 2000;
const LONGEST_REQUEST_ID = 256;

/** In lower case; those that may come more than once as lists. Node's own type would ask for Node's types of whoever uses the package. */
type ReplyHeaders = Readonly<Record<string, string | string[] | undefined>>;

/** A model server's reply whose status makes it an answer. */
export type Reply = {
  readonly status: number;
  readonly headers: ReplyHeaders;
  /** The parts of its text as they come; throws when it breaks off. To be read once. */
  readonly parts: AsyncIterable<string>;
  /** The most that an answer may have. */
  readonly maxBytes: number;
};

/** The model server gave no answer to pass on: it refused the request, and has done nothing, or it failed. */
export class NotAnswered extends Error {
  readonly outcome: 'refused' | 'failed';
  /** What the task ends with where it is tried no more. */
  readonly answer: TaskAnswer;
  /** Seconds, as the server asked for. */
  readonly retryAfter: number | undefined;
  /** What it says of the server: `badly` that it may be away, `away` that it is. */
  readonly went: Went;

  constructor(
    outcome: 'refused' | 'failed',
    message: string,
    more: { answer?: TaskAnswer; retryAfter?: number | undefined; went?: Went } = {},
  ) {
    super(cleaned(message));
    this.outcome = outcome;
    this.answer = more.answer ?? { status_code: 502, body: upstreamError(message, 'upstream_broken') };
    this.retryAfter = more.retryAfter;
    this.went = more.went ?? 'unknown';
  }
}

/** What no other try can change: it is not implemented there. */
const FINAL = new Set([501, 505, 510]);

/** What a status that is no answer means; undefined for one that is. */
export function outcomeOf(status: number): 'refused' | 'failed' | undefined {
  if (status === 429 || status === 503 || status === 425) return 'refused';
  return (status >= 500 && !FINAL.has(status)) || status === 408 ? 'failed' : undefined;
}

/** The error of a reply that is no answer. */
export function notAnswered(status: number, headers: ReplyHeaders, text: string): NotAnswered | undefined {
  const outcome = outcomeOf(status);
  if (outcome === undefined) return undefined;
  const asked = headers['retry-after'];
  const retryAfter = typeof asked === 'string' ? retryAfterOf(new Headers({ 'retry-after': asked })) : undefined;
  const message = `the model server answered ${status}: ${messageOf(parsed(text)) ?? shortened(text)}`;
  return new NotAnswered(outcome, message, {
    answer: { status_code: status, body: bodyOf({ status, headers }, text), ...besidesOf({ headers }) },
    retryAfter: retryAfter === undefined ? undefined : Math.min(retryAfter, LONGEST_RETRY_AFTER_SECONDS),
    // That there is too much to do is the limit's business.
    went: outcome === 'failed' ? 'badly' : 'unknown',
  });
}

/** The whole of a reply as an answer: its JSON to the letter. `wrap` makes something of the text of a 2xx without JSON, which else is a failure. */
export async function answerOf(reply: Reply, wrap?: (text: string) => unknown): Promise<TaskAnswer> {
  const text = await wholeOf(reply.parts, reply.maxBytes);
  return { status_code: reply.status, body: bodyOf(reply, text, wrap), ...besidesOf(reply) };
}

/** What an answer has of its reply besides status and body. */
export function besidesOf(reply: Pick<Reply, 'headers'>): Pick<TaskAnswer, 'request_id' | 'headers'> {
  const headers = answerHeaders(reply.headers);
  return { request_id: requestIdOf(reply), ...(headers && { headers }) };
}

function requestIdOf({ headers }: Pick<Reply, 'headers'>): string | undefined {
  const id = headers['x-request-id'];
  return typeof id === 'string' && id !== '' ? id.slice(0, LONGEST_REQUEST_ID) : undefined;
}

/** The error's text in OpenAI's shape, Ollama's, or the bare one. */
export function messageOf(body: unknown): string | undefined {
  const { error, message } = Object(body);
  const text = error?.message ?? error ?? message;
  return typeof text === 'string' ? text : undefined;
}

export const parsed = (text: string): unknown => {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
};

export const upstreamError = (message: string, code = 'upstream_error') => ({
  error: { message, type: 'upstream_error', param: null, code },
});

function bodyOf(
  { status, headers }: Pick<Reply, 'status' | 'headers'>,
  text: string,
  wrap?: (text: string) => unknown,
): unknown {
  try {
    return new JsonText(text);
  } catch {
    if (status >= 300) return upstreamError(shortened(text) || `the model server answered ${status}`);
    if (wrap) return wrap(text);
    if (text.trim() === '') throw new NotAnswered('failed', "the model server's answer is empty");
    const type = String(headers['content-type'] ?? '').slice(0, 100);
    const but = type === '' || /json/i.test(type) ? '' : ` but ${type}`;
    throw new NotAnswered('failed', `the model server's answer is not JSON${but}: ${shortened(text, 100)}`);
  }
}

/** A text that can be stored and shown, whatever a model server has in it. */
// biome-ignore lint/suspicious/noControlCharactersInRegex: they are what it is about
const cleaned = (text: string) => text.toWellFormed().replace(/[\0-\x08\x0b\x0c\x0e-\x1f\x7f]/g, '\ufffd');

const shortened = (text: string, length = LONGEST_MESSAGE) => text.trim().slice(0, length);
