import { createParser } from 'eventsource-parser';
import { JsonText, type TaskAnswer } from '../worker/executor.ts';
import type { Call } from './dialect.ts';
import type { Gathering } from './gathering.ts';
import { messageOf, NotAnswered, outcomeOf, parsed, type Reply, requestIdOf } from './reply.ts';

const DONE = '[DONE]';

export type StreamRecord = { name: string | undefined; data: string };

/** Whether a reply is a stream of records rather than one answer. */
export function isStream({ status, headers }: Reply, type: string): boolean {
  return status < 300 && String(headers['content-type']).startsWith(type);
}

/** The records of server-sent events. */
export async function* eventsIn(parts: AsyncIterable<string>): AsyncGenerator<StreamRecord, void> {
  let events: StreamRecord[] = [];
  const parser = createParser({ onEvent: ({ event, data }) => events.push({ name: event, data }) });
  const taken = () => {
    const now = events;
    events = [];
    return now;
  };
  for await (const part of parts) {
    parser.feed(part);
    yield* taken();
  }
  // Some servers leave out the last empty line.
  parser.feed('\n\n');
  yield* taken();
}

/** The records of newline-delimited JSON. */
export async function* linesIn(parts: AsyncIterable<string>): AsyncGenerator<StreamRecord, void> {
  let rest = '';
  for await (const part of parts) {
    const lines = (rest + part).split('\n');
    rest = lines.pop() as string;
    for (const data of lines) if (data.trim() !== '') yield { name: undefined, data };
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
      if (refusal !== undefined) return { ...refusal, request_id: requestIdOf(reply) };
      gathering.add(record ?? data);
      call.passOn(name ?? 'chunk', record === undefined ? data : new JsonText(data));
    }
  } catch (error) {
    // What broke after the end does no harm.
    if (!isDone || call.task.signal.aborted || error instanceof NotAnswered) throw error;
  }
  if (!isDone && !gathering.isComplete) throw new NotAnswered('failed', 'the stream ended before its end');
  return { ...gathering.answer(), request_id: requestIdOf(reply) };
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
