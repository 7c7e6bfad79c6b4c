/**
 * How Node is to run the server, as `npm start` does. Requests that wait for their commit outlive a collection of the young generation, and are copied
 * in each: with twice the room as many puts took the server 73 µs each in place of 96; four times took 60 MB more for nothing that could be
 * measured. (V8 reads this when it starts, so the server can't set it for itself.)
 */
export const SERVER = ['--max-semi-space-size=32', 'server/main.ts'];
