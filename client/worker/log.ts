/** Gets what a worker has to say to whoever runs it, a line at a time. */
export type Log = (line: string) => void;
