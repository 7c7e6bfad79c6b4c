import { TasklaneError } from '../protocol/errors.ts';
import { memberTexts, minifyJson } from '../protocol/json.ts';
import type { Answered } from '../tasks/watchers.ts';
import { unanswered } from './answers.ts';
import { openAiErrorBody } from './route.ts';

/** What a stream says before it breaks off: OpenAI's error, as an object and as the text that it came in. */
export type Fault = { error: Record<string, unknown>; text: string };

const faultBy = (error: object): Fault => ({ error: { ...error }, text: JSON.stringify(error) });
const faultOf = (error: TasklaneError): Fault => faultBy(openAiErrorBody(error).error);

export const BROKEN_OFF = faultOf(
  new TasklaneError(502, 'the worker was lost in the middle of its answer', {
    openai: { param: null, code: 'stream_broken_off' },
  }),
);

/** Why a stream that has begun is not completed by this end. */
export function faultIn(ending: Answered): Fault {
  if (ending.body === null) return faultOf(unanswered(ending));
  const body = Object(JSON.parse(ending.body));
  const { error } = body;
  if (error !== null && typeof error === 'object')
    return { error, text: minifyJson(memberTexts(ending.body).get('error') as string) };
  const [type, code] = [body.type ?? 'server_error', body.code ?? null];
  if (typeof error === 'string') return faultBy({ message: error, type, param: null, code });
  if (typeof body.message === 'string')
    return faultBy({ message: body.message, type, param: body.param ?? null, code });
  const { status_code: status } = ending;
  return faultOf(
    new TasklaneError(status, `the worker failed with status ${status}`, {
      openai: { param: null, code: 'worker_failed' },
    }),
  );
}

/** An error in the middle of chat completions and completions. */
export const errorRecord = ({ text }: Fault): string => `data: {"error":${text}}\n\n`;

/** The error event of the Responses API; what an error's `type` says stands in its `code`, where that is empty. */
export function errorEvent({ error }: Fault, sequenceNumber: number): string {
  const { message, type, code, param } = error;
  const event = {
    type: 'error',
    code: textOf(code) ?? textOf(type),
    message: textOf(message) ?? '',
    param: textOf(param),
    sequence_number: sequenceNumber,
  };
  return `event: error\ndata: ${JSON.stringify(event)}\n\n`;
}

/** Some model servers write numbers where OpenAI has texts. */
const textOf = (value: unknown): string | null => (value === null || value === undefined ? null : String(value));
