import { z } from 'zod';

const RESERVED = new Set(['put', 'puts', 'take', 'complete', 'register', 'events', 'eventbus', 'heartbeat']);

export const queueName = z
  .string()
  .regex(/^[A-Za-z0-9_-]{1,64}$/, 'a queue name has 1 to 64 letters, digits, dashes or underscores')
  .refine((name) => !RESERVED.has(name) && !name.startsWith('TASK-'), 'this name is reserved');

export const laneName = z
  .string()
  .regex(/^[A-Za-z0-9_-]{1,64}:\d{1,2}$/, 'write queue:level, with a level from 0 to 99');
export const level = z.int().min(0).max(99);
/**
 * What `schema.transform(to)` is, for the bodies of hot routes. A transform or superRefine of zod makes a function for each value, `payload.addIssue = () => …`,
 * and V8 puts a function that is written to a property as it is made into old space: there it keeps all that the request made until the next full
 * collection, which then comes every two seconds under load.
 */
export const mapped = <Schema extends z.ZodType, To>(schema: Schema, to: (value: z.output<Schema>) => To) =>
  schema.overwrite(to as never) as unknown as z.ZodPipe<Schema, z.ZodTransform<To, z.output<Schema>>>;

/** A field that may be left out or null, as clients with typed objects send it; `usual` stands in for it. */
export const optional = <Schema extends z.ZodType>(schema: Schema, usual: z.output<Schema>) =>
  mapped(schema.nullable().default(usual as never), (value): z.output<Schema> => value ?? usual);

/** A Postgres `text` can't hold NUL, nor half a surrogate pair: that is U+FFFD in UTF-8, and in JSON as well from here on. */
export const shortText = (max: number) =>
  z
    .string()
    .max(max)
    .refine((text) => !text.includes('\0'), 'must not contain a NUL character')
    .overwrite((text) => text.toWellFormed());
/** What a worker or a model server says: made so that it can be stored, rather than refused. */
export const saidText = (max: number) =>
  mapped(z.string(), (text) => text.slice(0, max).replaceAll('\0', '\ufffd').toWellFormed());
export const endpointName = shortText(256).min(1);
export const modelName = shortText(256).min(1);
/** The number of a task's attempt, as large as Postgres keeps it. */
export const attemptNumber = z.int().min(1).max(2_147_483_647);
