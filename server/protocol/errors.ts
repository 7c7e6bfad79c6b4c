export type Detail = { path: string; message: string };

/** What went wrong, in words for the caller; `status` is the HTTP status that says so. Never carries a secret or a stack. */
export class TasklaneError extends Error {
  readonly status: number;
  readonly details: Detail[] | undefined;
  readonly headers: Record<string, string>;

  constructor(
    status: number,
    message: string,
    options: { details?: Detail[]; headers?: Record<string, string>; cause?: unknown } = {},
  ) {
    super(message, options.cause === undefined ? undefined : { cause: options.cause });
    this.status = status;
    this.details = options.details;
    this.headers = options.headers ?? {};
  }
}

export const badRequest = (message: string, details?: Detail[]) =>
  new TasklaneError(400, message, details ? { details } : {});
export const notFound = (message: string) => new TasklaneError(404, message);
export const conflict = (message: string) => new TasklaneError(409, message);
export const unavailable = (cause?: unknown) =>
  new TasklaneError(503, 'the database is unavailable', { headers: { 'Retry-After': '1' }, cause });
