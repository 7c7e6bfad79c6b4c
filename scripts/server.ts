/**
 * How Node is to run the server, as `npm start` does. The young generation stays at 32 MB: left to itself it grows to 128 MB under load, which
 * a batch of 50,000 lines then takes for nothing. (V8 reads this when it starts, so the server can't set it for itself.)
 */
export const SERVER = ['--max-semi-space-size=16', 'server/main.ts'];
