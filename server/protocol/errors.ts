import type { z } from 'zod';

export type Detail = { path: string; message: string };

/** What went wrong, in words for the caller; `status` is the HTTP status that says so. Never carries a secret or a stack. */
export class TasklaneError extends Error {
  readonly status: number;
  readonly details: Detail[] | undefined;
  /** What OpenAI's envelope says besides the message. */
  readonly openai: { param: string | null; code: string | null };
  readonly headers: Record<string, string>;

  constructor(
    status: number,
    message: string,
    options: {
      details?: Detail[];
      openai?: { param: string | null; code: string | null };
      headers?: Record<string, string>;
      cause?: unknown;
    } = {},
  ) {
    super(message, options.cause === undefined ? undefined : { cause: options.cause });
    this.status = status;
    this.details = options.details;
    this.openai = options.openai ?? { param: null, code: null };
    this.headers = options.headers ?? {};
  }
}

export const badRequest = (message: string, details?: Detail[]) =>
  new TasklaneError(400, message, details ? { details } : {});
/** What a schema found wrong in `what`: the first fault in the message, up to 20 in the details. */
export function invalid(what: string, error: z.ZodError): TasklaneError {
  const details = error.issues.slice(0, 20).map((issue) => ({
    path: issue.path.join('.'),
    message: (issue.code === 'invalid_key' && issue.issues[0]?.message) || issue.message,
  }));
  const [first] = details;
  return badRequest(`${first?.path || what}: ${first?.message}`, details);
}

export const notFound = (message: string) => new TasklaneError(404, message);
export const conflict = (message: string) => new TasklaneError(409, message);
export const unavailable = (cause?: unknown) =>
  new TasklaneError(503, 'the database is unavailable', { headers: { 'Retry-After': '1' }, cause });
/** Whether it is that the database is away for a while. */
export const isOutage = (error: unknown): error is TasklaneError =>
  error instanceof TasklaneError && error.status === 503 && error.cause !== undefined;
