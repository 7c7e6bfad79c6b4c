import { createParser } from 'eventsource-parser';
import { HEADERS_EVENT } from '../../server/protocol/answer-headers.ts';
import { JsonText, type TaskAnswer } from '../worker/executor.ts';
import { TooLarge } from '../worker/too-large.ts';
import type { Call } from './dialect.ts';
import type { Gathering } from './gathering.ts';
import { besidesOf, messageOf, NotAnswered, outcomeOf, parsed, type Reply } from './reply.ts';
import { peek } from './reply-text.ts';

const DONE = '[DONE]';
/** White space before that which tells what a reply is. */
const MAX_PEEK = 1024;

export type StreamRecord = { name: string | undefined; data: string };

/** Whether what was asked for as lines is one answer instead. */
export const isLines = ({ status, headers }: Reply): boolean =>
  status < 300 && !String(headers['content-type']).toLowerCase().startsWith('application/json');

/**
 * What was asked for as an event stream, with its records; without them where it is one answer instead. What it begins with tells, and only where that may be
 * either, its content type: gateways leave that out, or have one for all.
 */
export async function asEvents(reply: Reply): Promise<{ reply: Reply; records?: AsyncIterable<StreamRecord> }> {
  if (reply.status >= 300) return { reply };
  const { start, parts } = await peek(
    reply.parts,
    (text) => text.length > MAX_PEEK || /^\s*([{[:]|\S.{5}|\S.*\n)/.test(text),
  );
  const whole = { ...reply, parts };
  const begins = start.trimStart();
  const isStream =
    /^(data|event|id|retry)?:/.test(begins) ||
    (!/^[{[]/.test(begins) && /^text\/event-stream/i.test(String(reply.headers['content-type'])));
  return isStream ? { reply: whole, records: eventsIn(parts, reply.maxBytes) } : { reply: whole };
}

/** The records of server-sent events. Throws TooLarge for one that has more characters than that. */
async function* eventsIn(parts: AsyncIterable<string>, maxCharacters: number): AsyncGenerator<StreamRecord, void> {
  let events: StreamRecord[] = [];
  let isTooLarge = false;
  const parser = createParser({
    maxBufferSize: maxCharacters,
    onEvent: ({ event, data }) => events.push({ name: event, data }),
    onError({ type }) {
      if (type === 'max-buffer-size-exceeded') isTooLarge = true;
    },
  });
  const feed = (part: string) => {
    events = [];
    parser.feed(part);
    if (isTooLarge) throw new TooLarge(maxCharacters);
    return events;
  };
  for await (const part of parts) yield* feed(part);
  // Some servers leave out the last empty line.
  yield* feed('\n\n');
}

/** The records of newline-delimited JSON. Throws TooLarge for one that has more characters than that. */
export async function* linesIn(
  parts: AsyncIterable<string>,
  maxCharacters: number,
): AsyncGenerator<StreamRecord, void> {
  let rest = '';
  for await (const part of parts) {
    const lines = (rest + part).split('\n');
    rest = lines.pop() as string;
    for (const data of lines) if (data.trim() !== '') yield { name: undefined, data };
    if (rest.length > maxCharacters) throw new TooLarge(maxCharacters);
  }
  if (rest.trim() !== '') yield { name: undefined, data: rest };
}

/**
 * Shows the records of a stream to the task's readers, as they are, and makes the answer of them. Throws NotAnswered where the stream breaks off, or a
 * record is an error: one that has a status is what a reply of that status would have been.
 */
export async function passOn(
  reply: Reply,
  records: AsyncIterable<StreamRecord>,
  call: Call,
  gathering: Gathering,
  /** Whether a record may be any text. */
  texts = false,
): Promise<TaskAnswer> {
  const besides = besidesOf(reply);
  let isFirst = true;
  let isDone = false;
  try {
    for await (const { name, data } of records) {
      if (data === DONE) {
        isDone = true;
        continue;
      }
      const record = parsed(data);
      if (record === undefined && !texts)
        throw new NotAnswered('failed', `a record of the stream is not JSON: ${data.slice(0, 100)}`);
      const refusal = errorOf(record, name);
      if (refusal !== undefined) return { ...refusal, ...besides };
      gathering.add(record ?? data);
      if (gathering.size > reply.maxBytes) throw new TooLarge(reply.maxBytes);
      if (isFirst && besides.headers) call.task.emitProgress(HEADERS_EVENT, besides.headers);
      isFirst = false;
      call.passOn(name ?? 'chunk', record === undefined ? data : new JsonText(data));
    }
  } catch (error) {
    // What broke after the end does no harm.
    if (!isDone || call.task.signal.aborted || error instanceof NotAnswered || error instanceof TooLarge) throw error;
  }
  if (!isDone && !gathering.isComplete) throw new NotAnswered('failed', 'the stream ended before its end');
  return { ...gathering.answer(), ...besides };
}

/** The answer that an error record is, as vLLM sends when a request turns out to be wrong; throws for one that is none. */
function errorOf(record: unknown, name: string | undefined): { status_code: number; body: unknown } | undefined {
  const { error, type } = Object(record);
  if (!error && type !== 'error' && name !== 'error') return undefined;
  const status = [error?.status, error?.code].find((code) => Number.isInteger(code) && code >= 400 && code <= 599);
  if (status !== undefined && outcomeOf(status) === undefined) return { status_code: status, body: record };
  const message = messageOf(record);
  throw new NotAnswered(
    (status && outcomeOf(status)) || 'failed',
    `the model server answered in the stream: ${message ?? 'an error without words'}`,
    message === undefined ? {} : { answer: { status_code: status ?? 502, body: error ? record : enveloped(record) } },
  );
}

/** The error event of the Responses API, which has no envelope, in one. */
function enveloped(record: unknown) {
  const { message, param = null, code } = Object(record);
  return { error: { message, type: 'upstream_error', param, code: code ?? 'upstream_broken' } };
}
