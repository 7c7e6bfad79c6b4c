import type { Line } from '../db/batches.ts';
import type { InputError } from '../protocol/batches.ts';
import { MalformedJson, memberTexts, parseJson } from '../protocol/json.ts';
import { elsewhere, USUAL_MODELS } from '../protocol/models.ts';
import type { InputLine } from './read-lines.ts';

const MAX_CUSTOM_ID = 512;
const MAX_ERRORS = 1000;
const MAX_EMBEDDING_INPUTS = 50_000;
/** OpenAI's rule of thumb for English text. */
const CHARACTERS_PER_TOKEN = 4;

type Json = Record<string, unknown>;

export type Checked = {
  /** That of the whole file, then those of lines, in their order; at most 1,000. */
  errors: InputError[];
  total: number;
  /** How many lines each has; '' where the line names none. */
  models: Map<string, number>;
  estimatedInputTokens: number;
};

/** What of a batch's lines is judged by. */
export type Rules = {
  endpoint: string;
  /** The batch names the queue, so that lines need no model. */
  hasQueue: boolean;
  maxLines: number;
  maxLineBytes: number;
  /** The endpoints at which each of these models has a route. */
  endpointsOf(models: readonly string[]): Promise<ReadonlyMap<string, readonly string[]>>;
};

/** Looks at all lines of a batch's input, or at those up to where there are too many. */
export async function checkLines(groups: AsyncIterable<InputLine[]>, rules: Rules): Promise<Checked> {
  const checked: Checked = { errors: [], total: 0, models: new Map(), estimatedInputTokens: 0 };
  const { errors } = checked;
  // Before those of the lines, so that it is never one too many.
  const refuseFile = (code: string, message: string, param: string | null = null) => {
    errors.unshift({ code, message, param, line: null });
    errors.splice(MAX_ERRORS);
  };
  const customIds = new Set<string>();
  const served = new Map<string, readonly string[]>();
  let inputs = 0;
  let characters = 0;

  for await (const group of groups) {
    const parsed = group.map((line) => ({ line, value: parsedOf(line) }));
    const unknown = rules.hasQueue
      ? []
      : [...new Set(parsed.map(({ value }) => modelOf(value)).filter((model) => model !== '' && !served.has(model)))];
    if (unknown.length > 0) for (const [model, at] of await rules.endpointsOf(unknown)) served.set(model, at);
    for (const { line, value } of parsed) {
      checked.total++;
      const add = (code: string, message: string, param: string | null = null) => {
        if (errors.length < MAX_ERRORS) errors.push({ code, message, param, line: line.number });
      };
      if (line.text === null) add('line_too_long', `This line is longer than ${rules.maxLineBytes} bytes.`);
      else if (value === undefined) add('invalid_json_line', 'This line is not parseable as valid JSON.');
      else {
        checkLine(value, rules, served, customIds, add);
        const model = modelOf(value);
        checked.models.set(model, (checked.models.get(model) ?? 0) + 1);
        if (rules.endpoint === '/v1/embeddings') inputs += countInputs(bodyOf(value)?.input);
        characters += lengthOfTexts(inputOf(bodyOf(value)));
      }
    }
    if (checked.total > rules.maxLines) {
      const message = `The input file has more than ${rules.maxLines} requests, which is the most a batch may have.`;
      refuseFile('too_many_tasks', message);
      return checked;
    }
  }
  if (checked.total === 0) {
    const message = 'The input file is empty. Please ensure that the batch contains at least one request.';
    refuseFile('empty_file', message);
  }
  if (inputs > MAX_EMBEDDING_INPUTS) {
    const message = `The input file has ${inputs} embedding inputs; a batch may have ${MAX_EMBEDDING_INPUTS}.`;
    refuseFile('too_many_tasks', message, 'body.input');
  }
  checked.estimatedInputTokens = Math.ceil(characters / CHARACTERS_PER_TOKEN);
  return checked;
}

/** What becomes of a line that was found to be good. */
export function lineOf({ text }: InputLine): Line {
  const value = JSON.parse(text as string) as Json;
  return {
    customId: value.custom_id as string,
    model: modelOf(value),
    data: memberTexts(text as string).get('body') as string,
  };
}

function checkLine(
  value: Json,
  { endpoint, hasQueue }: Rules,
  served: ReadonlyMap<string, readonly string[]>,
  customIds: Set<string>,
  add: (code: string, message: string, param: string | null) => void,
): void {
  const missing = (name: string) => value[name] === undefined || value[name] === null;
  for (const name of ['custom_id', 'method', 'url', 'body']) {
    if (missing(name)) add('missing_required_parameter', `Missing required parameter: '${name}'.`, name);
  }

  const customId = value.custom_id;
  if (!missing('custom_id')) {
    if (typeof customId !== 'string' || customId === '' || !customId.isWellFormed() || customId.includes('\0')) {
      const message =
        "Invalid 'custom_id': expected a string that is not empty, of characters that UTF-8 has, without NUL.";
      add('invalid_value', message, 'custom_id');
    } else if (customId.length > MAX_CUSTOM_ID) {
      const message = `Invalid 'custom_id': string too long. Expected a string with maximum length ${MAX_CUSTOM_ID}, but got a string with length ${customId.length} instead.`;
      add('string_above_max_length', message, 'custom_id');
    } else if (customIds.has(customId)) {
      const message = `The custom_id '${customId}' for this request is a duplicate of another request. The custom_id parameter must be unique for each request in a batch.`;
      add('duplicate_custom_id', message, 'custom_id');
    } else customIds.add(customId);
  }
  if (!missing('method') && value.method !== 'POST') {
    add('invalid_method', `Invalid value: '${clip(value.method)}'. Supported values are: 'POST'.`, 'method');
  }
  if (!missing('url') && value.url !== endpoint) {
    add('invalid_url', 'The URL provided for this request does not match the batch endpoint.', 'url');
  }
  if (missing('body')) return;
  const body = bodyOf(value);
  if (!body) {
    add('invalid_type', "Invalid type for 'body': expected an object.", 'body');
    return;
  }

  const model = modelOf(value);
  if (!hasQueue && model === '') add('invalid_request', 'Model parameter is required.', 'body.model');
  else if (!hasQueue && !served.get(model)?.includes(endpoint)) {
    const message =
      elsewhere('The provided model', model, endpoint, served.get(model) ?? []) ??
      `The provided model '${clip(model)}' is not supported by the Batch API.`;
    add('model_not_found', message, 'body.model');
  }
  if (endpoint === '/v1/chat/completions' && body.messages == null) {
    add('invalid_request', 'Messages parameter is required.', 'body.messages');
  }
  if (body.stream === true) {
    add(
      'streaming_unsupported',
      `${NAMES[endpoint] ?? endpoint}: Streaming is not supported in the Batch API.`,
      'body.stream',
    );
  }
}

const NAMES: Record<string, string> = {
  '/v1/chat/completions': 'Chat Completions',
  '/v1/completions': 'Completions',
  '/v1/responses': 'Responses',
};

function parsedOf({ text }: InputLine): Json | undefined {
  if (text === null) return undefined;
  try {
    const value = parseJson(text);
    return isObject(value) ? value : undefined;
  } catch (error) {
    if (error instanceof MalformedJson) return undefined;
    throw error;
  }
}

const isObject = (value: unknown): value is Json =>
  typeof value === 'object' && value !== null && !Array.isArray(value);
const bodyOf = (value: Json): Json | undefined => (isObject(value.body) ? value.body : undefined);

/** '' where there is none that could have a route. */
function modelOf(value: Json | undefined): string {
  const model = value && (bodyOf(value)?.model ?? USUAL_MODELS[value.url as string]);
  return typeof model === 'string' && model.length <= 256 && !model.includes('\0') ? model : '';
}

const inputOf = (body: Json | undefined) =>
  body && [body.messages, body.input, body.prompt, body.instructions].filter((part) => part != null);

function countInputs(input: unknown): number {
  return Array.isArray(input) && typeof input[0] !== 'number' ? input.length : 1;
}

function lengthOfTexts(value: unknown): number {
  if (typeof value === 'string') return value.length;
  if (typeof value !== 'object' || value === null) return 0;
  let length = 0;
  for (const part of Object.values(value)) length += lengthOfTexts(part);
  return length;
}

const clip = (value: unknown) => String(value).slice(0, 200);
