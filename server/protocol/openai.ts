import { z } from 'zod';
import { TasklaneError } from './errors.ts';
import { shortText } from './names.ts';

/** A refusal as OpenAI's routes tell it. `param` names the field, `code` the kind of fault. */
export function refuse(status: number, message: string, param: string | null = null, code: string | null = null) {
  return new TasklaneError(status, message, { openai: { param, code } });
}

/** The first fault that a schema found, in OpenAI's words. To be called with issues that report their input. */
export function invalidParameter(error: z.ZodError): TasklaneError {
  const issue = error.issues[0] as z.core.$ZodIssue;
  const inner = issue.code === 'invalid_key' ? issue.issues[0] : undefined;
  return told(inner ?? issue, issue.path.join('.'));
}

type Issue = z.core.$ZodIssue;

function told(issue: Issue, param: string): TasklaneError {
  const input = (issue as { input?: unknown }).input;
  const bad = (message: string, code: string | null) => refuse(400, message, param || null, code);
  if (issue.code === 'custom') {
    // With params the message is a sentence, without them it says what the field must be.
    if (issue.params) return bad(issue.message, issue.params.code);
    return bad(`Invalid '${param}': ${issue.message}.`, 'invalid_value');
  }
  if (input === undefined) return bad(`Missing required parameter: '${param}'.`, 'missing_required_parameter');
  switch (issue.code) {
    case 'invalid_type':
      return bad(
        `Invalid type for ${param ? `'${param}'` : 'the body'}: expected ${article(EXPECTED[issue.expected] ?? issue.expected)}, but got ${kindOf(input, issue.expected)} instead.`,
        'invalid_type',
      );
    case 'invalid_value':
      return issue.values.some((value) => typeof value === typeof input)
        ? bad(
            `Invalid value: '${clip(String(input))}'. Supported values are: ${listed(issue.values.map(String))}.`,
            'invalid_value',
          )
        : bad(
            `Invalid type for '${param}': expected ${listed(issue.values.map(String), 'or')}, but got ${kindOf(input)} instead.`,
            'invalid_type',
          );
    case 'too_big':
    case 'too_small':
      return outOfBounds(issue, input, param, bad);
    default:
      return bad(`Invalid '${param}': ${issue.message}`, 'invalid_value');
  }
}

function outOfBounds(
  issue: z.core.$ZodIssueTooBig | z.core.$ZodIssueTooSmall,
  input: unknown,
  param: string,
  bad: (message: string, code: string | null) => TasklaneError,
): TasklaneError {
  const big = issue.code === 'too_big';
  const bound = Number(big ? issue.maximum : issue.minimum);
  if (typeof input === 'string') {
    if (input === '') {
      return bad(
        `Invalid '${param}': empty string. Expected a string with minimum length ${bound}, but got an empty string instead.`,
        'empty_string',
      );
    }
    return bad(
      `Invalid '${param}': string too ${big ? 'long' : 'short'}. Expected a string with ${big ? 'maximum' : 'minimum'} length ${bound}, but got a string with length ${input.length} instead.`,
      `string_${big ? 'above_max' : 'below_min'}_length`,
    );
  }
  if (Array.isArray(input)) {
    return bad(
      `Invalid '${param}': array too ${big ? 'long' : 'short'}. Expected an array with ${big ? 'maximum' : 'minimum'} length ${bound}, but got an array with length ${input.length} instead.`,
      `array_${big ? 'above_max' : 'below_min'}_length`,
    );
  }
  const kind = Number.isInteger(bound) ? 'integer' : 'decimal';
  return bad(
    `Invalid '${param}': ${kind} ${big ? 'above maximum' : 'below minimum'} value. Expected a value ${big ? '<=' : '>='} ${bound}, but got ${input} instead.`,
    `${kind}_${big ? 'above_max' : 'below_min'}_value`,
  );
}

const EXPECTED: Record<string, string> = { int: 'integer', record: 'object' };

function kindOf(input: unknown, expected = ''): string {
  if (input === null) return 'null';
  if (Array.isArray(input)) return 'an array';
  if (typeof input === 'number' && expected === 'int') return 'a decimal number';
  return article(typeof input);
}

const article = (word: string) => (word === 'null' ? word : `${/^[aeiou]/.test(word) ? 'an' : 'a'} ${word}`);
const clip = (text: string) => (text.length > 200 ? `${text.slice(0, 200)}…` : text);

function listed(values: readonly string[], word = 'and'): string {
  const quoted = values.map((value) => `'${value}'`);
  if (quoted.length < 3) return quoted.join(` ${word} `);
  return `${quoted.slice(0, -1).join(', ')}, ${word} ${quoted.at(-1)}`;
}

/** A number in a query. */
export const queryInteger = (least: number, most: number) =>
  z.preprocess(
    (value) => (typeof value === 'string' && /^-?\d{1,15}(\.\d{1,15})?$/.test(value) ? Number(value) : value),
    z.int().min(least).max(most),
  );

const MAX_PAIRS = 16;

/** What a caller may note on an object: 16 pairs of strings. */
export const openAiMetadata = z.record(shortText(64), shortText(512)).superRefine((pairs, context) => {
  const count = Object.keys(pairs).length;
  if (count > MAX_PAIRS) {
    context.addIssue({
      code: 'custom',
      params: { code: 'object_above_max_properties' },
      message: `Invalid 'metadata': too many properties. Expected an object with at most ${MAX_PAIRS} properties, but got an object with ${count} properties instead.`,
    });
  }
});

/** When a file is removed: seconds after it was made. */
export const expiresAfter = z.object({
  anchor: z.enum(['created_at']),
  seconds: z.int().min(3600).max(2_592_000),
});

/** A page of a list, as OpenAI's clients walk through it: `after` is the id of the last one they have. */
export function page<Row extends { id: string }>(rows: readonly Row[], limit: number) {
  const data = rows.slice(0, limit);
  return {
    object: 'list',
    data,
    first_id: data[0]?.id ?? null,
    last_id: data.at(-1)?.id ?? null,
    has_more: limit > 0 && rows.length > limit,
  };
}
