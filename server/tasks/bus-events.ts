import { answerHeadersText } from '../protocol/answer-headers.ts';
import { badRequest, invalid, notFound, TasklaneError } from '../protocol/errors.ts';
import { type BusEvent, busEvent } from '../protocol/events.ts';
import { parseTaskId } from '../protocol/ids.ts';
import { MalformedJson, memberTexts, parseJson } from '../protocol/json.ts';
import type { WorkerEvent } from './progress.ts';
import type { Tasks } from './tasks.ts';

export type Verdict = { ok: true; taskId: string } | { ok: false; taskId: string; message: string };

/**
 * Applies events in the event bus's JSON, in order, each on its own; none with `refusal`, which is then what is wrong with each.
 * `error` tells how a lone one would have failed.
 */
export async function applyBusEvents(
  tasks: Tasks,
  texts: readonly string[],
  refusal?: TasklaneError,
): Promise<{ verdict: Verdict; error?: TasklaneError }[]> {
  const read = texts.map(readEvent);
  const good = read.filter((one) => one.event !== undefined);
  const refusals = refusal
    ? good.map(() => refusal)
    : await tasks.applyEvents(good.map((one) => one.event as WorkerEvent));
  for (const [index, one] of good.entries()) one.error = refusals[index];
  return read.map(({ taskId, error }) => {
    if (!error) return { verdict: { ok: true, taskId } };
    const known = error instanceof TasklaneError ? error : new TasklaneError(500, 'internal error', { cause: error });
    return { verdict: { ok: false, taskId, message: known.message }, error: known };
  });
}

type Read = { taskId: string; event?: WorkerEvent; error?: Error | undefined };

function readEvent(text: string): Read {
  let taskId = '';
  try {
    const value = parseJson(text) as { payload?: { taskId?: unknown } } | null;
    if (typeof value?.payload?.taskId === 'string') taskId = value.payload.taskId;
    const parsed = busEvent.safeParse(value);
    if (!parsed.success) throw invalid('the event', parsed.error);
    const id = parseTaskId(parsed.data.payload.taskId);
    if (id === undefined) throw notFound(`unknown task ${taskId}`);
    return { taskId, event: toWorkerEvent(id, parsed.data, memberTexts(memberTexts(text).get('payload') as string)) };
  } catch (error) {
    return { taskId, error: error instanceof MalformedJson ? badRequest(error.message) : (error as Error) };
  }
}

function toWorkerEvent(id: string, event: BusEvent, payload: Map<string, string>): WorkerEvent {
  const attempt = event.payload.attempt ?? null;
  if (event.name === 'task-progress-event') {
    const { eventId = null, eventName, repeated } = event.payload;
    const data = payload.get('eventData') ?? null;
    return { progress: { id, attempt, eventId, eventName, data, repeated: repeated ?? false } };
  }
  const { status_code: statusCode, request_id: requestId } = event.payload.result;
  const headers = answerHeadersText(event.payload.result.headers);
  const body = memberTexts(payload.get('result') as string).get('body') as string;
  return { answer: { id, attempt, statusCode, requestId: requestId ?? null, body, headers } };
}
