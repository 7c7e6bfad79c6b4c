/** For what takes long and has shorter tests beside it: run with LONG_TESTS=1 alone. */
export const LONG = { skip: process.env.LONG_TESTS === '1' ? false : 'runs with LONG_TESTS=1' };
