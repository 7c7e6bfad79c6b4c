/** The server answered, and not as was hoped: its status, and what it said. */
export class ApiError extends Error {
  readonly status: number;
  /** What is wrong with which field, where the server says so. */
  readonly details: { path: string; message: string }[];
  /** The server's name for the request, in its log too. */
  readonly requestId: string | undefined;
  /** The task that the reply is about, where it is a task's own ending. */
  readonly taskId: string | undefined;
  /** The reply's body: parsed where it is JSON, else as text. */
  readonly body: unknown;
  /** Seconds, where the server named a time to come back. */
  readonly retryAfter: number | undefined;

  constructor(status: number, headers: Headers, body: unknown) {
    super(messageOf(body) ?? `the server answered ${status}`);
    this.name = new.target.name;
    this.status = status;
    this.details = (body as { details?: [] } | null)?.details ?? [];
    this.requestId = headers.get('x-bella-request-id') ?? undefined;
    this.taskId = headers.get('x-task-id') ?? undefined;
    this.body = body;
    this.retryAfter = retryAfterOf(headers);
  }
}

export class BadRequestError extends ApiError {}
export class AuthenticationError extends ApiError {}
export class PermissionDeniedError extends ApiError {}
export class NotFoundError extends ApiError {}
export class ConflictError extends ApiError {}
export class TooLargeError extends ApiError {}
export class RateLimitError extends ApiError {}
export class ServerError extends ApiError {}

/** The server gave no answer: it could not be reached, or the connection broke. `cause` has the reason. */
export class ConnectionError extends Error {
  /** The request never left, so it has had no effect. */
  readonly unsent: boolean;

  constructor(url: string, cause: unknown) {
    super(`no answer from ${url}: ${reasonOf(cause)}`, { cause });
    this.name = 'ConnectionError';
    this.unsent = UNSENT.has(codeOf(cause) ?? '');
  }
}

/** A task that was waited for ended without an answer. */
export class TaskEndedError extends Error {
  readonly taskId: string;
  readonly status: 'dead' | 'expired' | 'cancelled';

  constructor(taskId: string, status: 'dead' | 'expired' | 'cancelled') {
    const why = { dead: 'no attempts are left', expired: 'its deadline has passed', cancelled: 'it was cancelled' };
    super(`${taskId}: ${why[status]}`);
    this.name = 'TaskEndedError';
    this.taskId = taskId;
    this.status = status;
  }
}

const CLASSES: Record<number, typeof ApiError> = {
  400: BadRequestError,
  401: AuthenticationError,
  403: PermissionDeniedError,
  404: NotFoundError,
  409: ConflictError,
  413: TooLargeError,
  429: RateLimitError,
};

export function apiError(status: number, headers: Headers, body: unknown): ApiError {
  const Class = CLASSES[status] ?? (status >= 500 ? ServerError : ApiError);
  return new Class(status, headers, body);
}

/** A refusal that no repeat can change. */
export const isFinal = (error: unknown): boolean =>
  error instanceof ApiError && error.status < 500 && error.status !== 408 && error.status !== 429;

/** From the Task API's envelope, or OpenAI's. */
function messageOf(body: unknown): string | undefined {
  if (typeof body === 'string') return body.slice(0, 500) || undefined;
  const { message, error } = (body ?? {}) as { message?: unknown; error?: { message?: unknown } };
  const text = message ?? error?.message;
  return typeof text === 'string' ? text : undefined;
}

/** Seconds, from `Retry-After` in either of its forms. */
export function retryAfterOf(headers: Headers): number | undefined {
  const value = headers.get('retry-after');
  if (value === null) return undefined;
  const seconds = /^\d+(\.\d+)?$/.test(value) ? Number(value) : (Date.parse(value) - Date.now()) / 1000;
  return Number.isFinite(seconds) ? Math.max(seconds, 0) : undefined;
}

/** Codes of failures before anything was sent. */
const UNSENT = new Set([
  'ECONNREFUSED',
  'ENOTFOUND',
  'EAI_AGAIN',
  'EHOSTUNREACH',
  'ENETUNREACH',
  'UND_ERR_CONNECT_TIMEOUT',
]);

/** fetch wraps what happened: `fetch failed`, whose cause has a code, or has several causes, one an address. */
export function codeOf(error: unknown): string | undefined {
  const { code, cause, errors } = (error ?? {}) as { code?: unknown; cause?: unknown; errors?: unknown[] };
  if (typeof code === 'string') return code;
  const causes = cause === undefined || cause === null ? (errors ?? []) : [cause];
  return causes.map(codeOf).find((found) => found !== undefined);
}

function reasonOf(error: unknown): string {
  const { message, cause } = (error ?? {}) as { message?: string; cause?: unknown };
  const code = codeOf(error);
  return code ?? ((cause as Error | undefined)?.message || message || String(error));
}
