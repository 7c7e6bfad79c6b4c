/** What became of a call: done, or why not. `unknown`: 404, `conflict`: 409, `invalid`: 400. */
export type Outcome = 'ok' | 'unknown' | 'conflict' | 'invalid';

export type NewTask = {
  queue?: string;
  endpoint: string;
  level?: number;
  priority?: number;
  mode?: 'callback' | 'blocking' | 'streaming';
  /** JSON, sent to the letter. */
  data?: string;
};

export type Taken = { id: string; attempt: number; queue: string; level: number; mode: string; data: string };

export type Event = { id: string; name: string; data: string };

/** One way to speak to Tasklane. Payloads are texts in and out, so that every change to a letter shows. */
export type Driver = {
  register(queue: string, endpoint: string): Promise<Outcome>;
  /** The task's id, or why there is none. Never waits for the task's answer. */
  put(task: NewTask): Promise<{ id: string } | Exclude<Outcome, 'ok'>>;
  take(lanes: string[], options?: { size?: number; strategy?: string }): Promise<Taken[] | Exclude<Outcome, 'ok'>>;
  complete(id: string, answer: { status?: number; body?: string; attempt?: number }): Promise<Outcome>;
  cancel(id: string): Promise<Outcome>;
  emit(id: string, name: string, data: string, more?: { eventId?: string; attempt?: number }): Promise<Outcome>;
  /** The events of a task that has ended. */
  events(id: string): Promise<Event[]>;
  channel(endpoint: string, model: string, queue: string): Promise<Outcome>;
  pause(queue: string, paused: boolean): Promise<Outcome>;
  /** `result`: the envelope's text, without whitespace. Undefined for a task that is unknown. */
  task(id: string): Promise<{ status: string; attempt: number; data: string; result: string | undefined } | undefined>;
  stats(lane: string): Promise<{ waiting: number; running: number; put: number; ended: number }>;
  close(): Promise<void>;
};
