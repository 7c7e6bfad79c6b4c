import type { TaskAnswer } from '../worker/executor.ts';

/** Makes an answer of the records of a stream, for whoever reads the task when the stream is over. */
export type Gathering = {
  add(record: unknown): void;
  /** Whether the end was among them. */
  readonly isComplete: boolean;
  /** How many characters it has gathered, roughly; what is as large as its last record counts nothing. */
  readonly size: number;
  answer(): Pick<TaskAnswer, 'status_code' | 'body'>;
};

type Json = Record<string, unknown>;

/** The endpoints of OpenAI and Ollama that stream, and how. */
const KINDS: Record<string, () => Gathering> = {
  '/api/chat': gatherLines,
  '/api/generate': gatherLines,
  '/v1/chat/completions': () => gatherCompletion('chat.completion'),
  '/v1/completions': () => gatherCompletion('text_completion'),
  '/v1/responses': gatherResponse,
};

/** undefined for an endpoint that does not stream. */
export const gatheringOf = (endpoint: string): Gathering | undefined =>
  Object.hasOwn(KINDS, endpoint) ? KINDS[endpoint]?.() : undefined;

/** The records themselves, as they came. */
export function gatherAll(): Gathering {
  const body: unknown[] = [];
  let size = 0;
  return {
    add(record) {
      body.push(record);
      size += sizeOf(record);
    },
    isComplete: true,
    get size() {
      return size;
    },
    answer: () => ({ status_code: 200, body }),
  };
}

/** Chunks to the object that would have come without a stream. */
function gatherCompletion(object: string): Gathering {
  const head: Json = {};
  const choices = new Map<number, Json>();
  let finished = false;
  let size = 0;
  return {
    add(record) {
      const { choices: parts, usage, ...rest } = Object(record);
      Object.assign(head, rest);
      if (usage) head.usage = usage;
      for (const { index = 0, delta, ...part } of Array.isArray(parts) ? parts : []) {
        const choice = choices.get(index) ?? { index, ...(delta && { message: { role: 'assistant', content: null } }) };
        choices.set(index, choice);
        size += merge(choice, part);
        if (delta) size += merge(choice.message as Json, delta);
        if (part.finish_reason) finished = true;
      }
    },
    get isComplete() {
      return finished;
    },
    get size() {
      return size;
    },
    answer() {
      const made = [...choices.values()].sort((one, other) => Number(one.index) - Number(other.index));
      for (const { message } of made) {
        const calls = (message as Json | undefined)?.tool_calls;
        if (Array.isArray(calls)) for (const call of calls) delete call.index;
      }
      return { status_code: 200, body: { ...head, object, choices: made } };
    },
  };
}

/** The last event of the Responses API has all of the response. */
function gatherResponse(): Gathering {
  let last: Json | undefined;
  return {
    add(record) {
      const { type, response } = Object(record);
      if (type === 'response.completed' || type === 'response.incomplete' || type === 'response.failed')
        last = { type, response };
    },
    get isComplete() {
      return last !== undefined;
    },
    size: 0,
    answer: () => ({ status_code: last?.type === 'response.failed' ? 502 : 200, body: last?.response }),
  };
}

/** Ollama's lines to the last one, which has all but the text. */
function gatherLines(): Gathering {
  let last: Json = {};
  const whole: Json = {};
  let size = 0;
  return {
    add(record) {
      const { message, response, thinking, logprobs, ...rest } = Object(record);
      size += merge(whole, { message, response, thinking, logprobs });
      last = rest;
    },
    get isComplete() {
      return last.done === true;
    },
    get size() {
      return size;
    },
    answer: () => ({ status_code: 200, body: { ...last, ...whole } }),
  };
}

/** Some servers repeat these in every chunk. */
const WHOLE = new Set(['role', 'id', 'type', 'name', 'index', 'finish_reason']);

/** As OpenAI's packages do: texts are added to each other, lists by the `index` of their members or else at the end. Gives by how much it grew. */
function merge(whole: Json, part: Json): number {
  let grown = 0;
  for (const [key, value] of Object.entries(part)) {
    if (value === null || value === undefined) continue;
    const had = Object.hasOwn(whole, key) ? whole[key] : undefined;
    if (Array.isArray(value)) {
      const list = Array.isArray(had) ? had : [];
      for (const member of value) {
        const at = list.find((other) => other?.index !== undefined && other.index === member?.index);
        if (at !== undefined) grown += merge(at, member);
        else grown += sizeOf(list[list.push(member) - 1]);
      }
      whole[key] = list;
    } else if (typeof value === 'string' && typeof had === 'string' && !WHOLE.has(key)) {
      whole[key] = had + value;
      grown += value.length;
    } else if (isObject(value) && isObject(had)) {
      grown += merge(had, value);
    } else {
      whole[key] = value;
      if (had === undefined) grown += sizeOf(value);
    }
  }
  return grown;
}

const sizeOf = (value: unknown): number => (typeof value === 'string' ? value.length : JSON.stringify(value).length);

const isObject = (value: unknown): value is Json =>
  typeof value === 'object' && value !== null && !Array.isArray(value);
