import type { ChatMessage } from '../build.ts';
import { textOf } from './arguments.ts';
import { usage } from './failure.ts';

const ROLES = ['system', 'user', 'assistant', 'tool', 'developer'];
/** A comma parts messages only where another begins: `user:Hello, how are you?` is one. */
const BETWEEN = new RegExp(`,(?=\\s*(?:${ROLES.join('|')}):)`);
const MESSAGE = new RegExp(`^\\s*(${ROLES.join('|')}):([^]*)$`);

/** Messages as `role:content`, several to a text or one; `-` alone is the user's message on stdin. */
export async function messagesOf(given: readonly string[]): Promise<ChatMessage[]> {
  const messages: ChatMessage[] = [];
  for (const one of given.flatMap((text) => text.split(BETWEEN))) {
    const [, role, content] = one === '-' ? ['', 'user', '-'] : (MESSAGE.exec(one) ?? []);
    if (role === undefined || content === undefined) {
      throw usage(
        `${JSON.stringify(one)} is no message`,
        `write role:content, where role is one of ${ROLES.join(', ')}`,
      );
    }
    messages.push({ role: role as ChatMessage['role'], content: await textOf(content) });
  }
  return messages;
}
