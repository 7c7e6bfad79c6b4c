import type { TaskAnswer } from './executor.ts';

/** There is more of an answer than the server takes. */
export class TooLarge extends Error {
  constructor(maxBytes: number, whose = "the model server's answer") {
    super(`${whose} is larger than ${maxBytes} bytes`);
  }
}

/** The answer in place of one that is too large: final, since it would be as large again. */
export const answerTooLarge = ({ message }: TooLarge): TaskAnswer => undeliverable(message, 'answer_too_large');

/** The answer in place of one that the server can't take, which clients are not to ask for again. */
export const undeliverable = (message: string, code: string): TaskAnswer => ({
  status_code: 502,
  headers: { 'x-should-retry': 'false' },
  body: { error: { message, type: 'upstream_error', param: null, code } },
});
