import { ApiError, ConnectionError, TaskEndedError } from '../errors.ts';

/** What a script can tell from how the command ended; `tasklane --help` lists them. */
export const EXIT = {
  failed: 1,
  usage: 2,
  notFound: 4,
  noConnection: 5,
  /** As of timeout(1). */
  timedOut: 124,
  /** As of a shell whose command was ended by SIGINT. */
  interrupted: 130,
} as const;

/** Ends the command with one line on stderr, a hint below it, and an exit code. */
export class Failure extends Error {
  readonly exitCode: number;
  readonly hint: string | undefined;

  constructor(message: string, exitCode: number = EXIT.failed, hint?: string) {
    super(message);
    this.exitCode = exitCode;
    this.hint = hint;
  }
}

/** The command line, or the configuration, is wrong. */
export const usage = (message: string, hint?: string): Failure => new Failure(message, EXIT.usage, hint);

/** What an error says to a person and to a script. */
export function failureOf(error: unknown): Failure {
  if (error instanceof Failure) return error;
  if (error instanceof TaskEndedError) {
    return new Failure(error.message, error.status === 'expired' ? EXIT.timedOut : EXIT.failed);
  }
  if (error instanceof ConnectionError) {
    // Which of its paths was asked for is of no use here.
    const message = error.message.replace(/(https?:\/\/[^/\s]+)[^\s:]*/, '$1');
    return new Failure(
      message,
      EXIT.noConnection,
      'start a server with: tasklane serve; or name another by --url or TASKLANE_URL',
    );
  }
  if (error instanceof ApiError) {
    const details = error.details
      .map(({ path, message }) => `${path}: ${message}`)
      .filter((one) => !error.message.includes(one));
    return new Failure([error.message, ...details].join('; '), ...ofStatus(error.status));
  }
  if (error instanceof TypeError && /^baseUrl: /.test(error.message))
    return usage(error.message.replace('baseUrl', 'url'));
  return new Failure((error as Error)?.message ?? String(error));
}

function ofStatus(status: number): [exitCode: number, hint?: string] {
  switch (status) {
    case 400:
    case 413:
      return [EXIT.usage];
    case 401:
      return [EXIT.failed, 'set TASKLANE_API_KEY, or api_key in tasklane.yaml, to a key of this server'];
    case 403:
      return [EXIT.failed, 'use a key of another role: an admin makes one with: tasklane keys create --role ROLE'];
    case 404:
      return [EXIT.notFound];
    case 408:
      return [EXIT.timedOut];
    default:
      return [EXIT.failed];
  }
}
