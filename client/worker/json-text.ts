import { JsonText } from './executor.ts';

/** A value as JSON; `JsonText` to the letter, and what has no JSON as null. Throws TypeError for what can't be written, a circle say. */
export const jsonOf = (value: unknown): string =>
  value instanceof JsonText ? value.text : (JSON.stringify(value) ?? 'null');
