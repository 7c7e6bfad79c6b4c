/**
 * How Node is to run the server, as `npm start` does. The young generation stays at 32 MB, where it would grow to 128 MB under load, for
 * nothing that can be measured. (V8 reads this when it starts, so the server can't set it for itself.)
 */
export const SERVER = ['--max-semi-space-size=32', 'server/main.ts'];
