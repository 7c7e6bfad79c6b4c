import { badRequest, TasklaneError, unavailable } from '../protocol/errors.ts';

/**
 * Lost or refused connections, a server that starts or stops, a password or a database that is being changed, too many clients, a full disk, locks that
 * others hold too long: it may well work again soon.
 */
const PASSING =
  /^(08...|53...|57P0[1-5]|57014|25006|55P03|40001|40P01|28P01|28000|3D000|ECONN.*|EPIPE|ENOENT|ETIMEDOUT|EHOSTUNREACH|ENETUNREACH|ENOTFOUND|EAI_AGAIN)$/;
/** Of these, what ends a statement and leaves its connection as it was. */
const SURVIVED = /^(53[124]..|57014|55P03|40001|40P01)$/;
/** What only a payload can cause: JSON that Postgres refuses, text it can't store, nesting beyond its stack. */
const BAD_DATA = /^(22P02|22P05|54001|22032|22030)$/;
/** All that a string of ours can have which is no UTF-8 for Postgres. */
const NUL = '22021';
/** Our own functions say which HTTP status their refusal is, and as its column which parameter is at fault. */
const OWN = /^TL(\d{3})$/;

/** The error that a caller may see, for whatever the driver threw. */
export function toTasklaneError(error: unknown): Error {
  for (let cause: unknown = error; cause instanceof Error; cause = cause.cause) {
    const { code, column } = cause as { code?: unknown; column?: string };
    if (typeof code === 'string') {
      const own = OWN.exec(code);
      if (own)
        return new TasklaneError(Number(own[1]), cause.message, { openai: { param: column ?? null, code: null } });
      if (PASSING.test(code)) return unavailable(error);
      if (code === NUL) return badRequest('text must not contain a NUL character');
      if (BAD_DATA.test(code)) return badRequest(cause.message);
    }
    if (
      /^(Backend|Connection)/.test(cause.name) ||
      /[Cc]onnection (terminated|ended|error|timeout)|[Tt]imeout.*connect|^timeout expired$|^Client is (pending |)destroy|released connection/.test(
        cause.message,
      )
    ) {
      return unavailable(error);
    }
    // Slonik's own classes stand for a SQLSTATE that they do not carry.
    if (cause.name === 'InvalidInputError') return badRequest(cause.message);
  }
  return error instanceof Error ? error : new Error(String(error));
}

/** Whether the database is only away for a while. */
export function isPassing(error: unknown): boolean {
  return error instanceof TasklaneError && error.status === 503;
}

/** Whether the connection on which a call failed so is of no more use. */
export function losesConnection(error: unknown): boolean {
  if (!isPassing(error)) return false;
  for (let cause = error; cause instanceof Error; cause = cause.cause)
    if (SURVIVED.test(String((cause as { code?: unknown }).code))) return false;
  return true;
}

/** Whether the fault lies in one of the items sent, so that the others may be tried without it. */
export function isDataError(error: unknown): boolean {
  return !isPassing(error);
}
