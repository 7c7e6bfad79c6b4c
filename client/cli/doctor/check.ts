/** What one look at something found, and what to do about it. */
export type Check = { name: string; state: 'ok' | 'warning' | 'problem'; message: string; advice?: string };

export const ok = (name: string, message: string): Check => ({ name, state: 'ok', message });
export const warning = (name: string, message: string, advice: string): Check => ({
  name,
  state: 'warning',
  message,
  advice,
});
export const problem = (name: string, message: string, advice: string): Check => ({
  name,
  state: 'problem',
  message,
  advice,
});
