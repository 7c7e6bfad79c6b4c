import type { AddressRule } from '../callbacks/address.ts';
import { badRequest } from '../protocol/errors.ts';
import type { PutBody } from '../protocol/tasks.ts';

/** Throws 400 for a callback that may not be sent there; `place` is where in the body the put stands, such as `tasks.3.`. */
export function checkCallback(rule: AddressRule, { callback_url: url }: PutBody, place = ''): void {
  const refused = url ? rule.checkUrl(url) : undefined;
  if (refused !== undefined) {
    const path = `${place}callback_url`;
    throw badRequest(`${path}: ${refused}`, [{ path, message: refused }]);
  }
}
