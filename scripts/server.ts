/**
 * How Node is to run the server, as `npm start` does. The young generation stays at 32 MB, where it would grow to 128 MB under load, and
 * the old one is collected when it has grown by half, with all the buffers that hang on it: a batch of 100 MB took 220 MB more than idle without
 * the two, 80 MB with them, in the same time. (V8 reads the first when it starts, so the server can't set it for itself.)
 */
export const SERVER = ['--max-semi-space-size=16', '--heap-growing-percent=50', 'server/main.ts'];
