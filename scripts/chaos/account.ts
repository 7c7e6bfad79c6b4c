/** What the database says of a task when all is over. */
export type Found = {
  taskId: string;
  marker: string;
  status: string;
  attempt: number;
  results: number;
  /** The worker's answer as JSON, null where there is none. */
  body: string | null;
};
export type Take = { taskId: string; attempt: number };
export type Answer = { taskId: string; attempt: number; accepted: boolean };

export type Evidence = {
  found: readonly Found[];
  /** Ids whose puts were acknowledged, with what was put. */
  acknowledged: ReadonlyMap<string, string>;
  /** Every id that an idempotency key was acknowledged with. */
  keyed: ReadonlyMap<string, readonly string[]>;
  /** Tasks whose cancellation was acknowledged. */
  cancelled: readonly string[];
  /** What blocking and streaming clients, and callbacks, were told: the marker that was put, and the answer's body. */
  told: readonly { taskId: string; marker: string; body: string }[];
  takes: readonly Take[];
  answers: readonly Answer[];
  /** How many ran at once, at most, in queues where that is limited: what was seen, and what is allowed. */
  peaks: readonly { queue: string; seen: number; allowed: number }[];
};

const ENDED = ['succeeded', 'failed', 'dead', 'expired', 'cancelled'];

/** What is wrong, one line each; and the figures. Every acknowledged task must have ended once, with one answer that all agree on. */
export function account(evidence: Evidence): { problems: string[]; figures: Record<string, number> } {
  const problems: string[] = [];
  const byId = new Map(evidence.found.map((task) => [task.taskId, task]));

  for (const [taskId, marker] of evidence.acknowledged) {
    const task = byId.get(taskId);
    if (!task) problems.push(`${taskId} was acknowledged and is gone`);
    else if (task.marker !== marker) problems.push(`${taskId} has the data of another put`);
  }
  for (const task of evidence.found) {
    if (!ENDED.includes(task.status)) problems.push(`${task.taskId} is ${task.status} for ever`);
    else if (task.results !== 1) problems.push(`${task.taskId} ended ${task.results} times`);
    if (task.status === 'succeeded' && echoOf(task.body) !== task.marker)
      problems.push(`${task.taskId} has the answer of another task`);
  }
  for (const [key, ids] of evidence.keyed)
    if (new Set(ids).size > 1) problems.push(`the key ${key} made ${new Set(ids).size} tasks`);
  const twice = new Map<string, number>();
  for (const { marker } of evidence.found) twice.set(marker, (twice.get(marker) ?? 0) + 1);
  for (const key of evidence.keyed.keys())
    if ((twice.get(key) ?? 0) > 1) problems.push(`the key ${key} made ${twice.get(key)} tasks`);
  for (const taskId of evidence.cancelled) {
    const status = byId.get(taskId)?.status;
    if (status !== 'cancelled') problems.push(`${taskId} was cancelled and is ${status}`);
  }
  for (const { taskId, marker, body } of evidence.told) {
    if (echoOf(body) !== marker) problems.push(`${taskId}: a client was told another answer than its own`);
    if (byId.get(taskId)?.body !== body)
      problems.push(`${taskId}: a client was told another answer than the one stored`);
  }
  const handed = new Set<string>();
  for (const { taskId, attempt } of evidence.takes) {
    const take = `${taskId} attempt ${attempt}`;
    if (handed.has(take)) problems.push(`${take} was handed out twice`);
    handed.add(take);
  }
  for (const { taskId, attempt, accepted } of evidence.answers) {
    const task = byId.get(taskId);
    if (accepted && task && task.attempt !== attempt)
      problems.push(
        `${taskId}: an answer to attempt ${attempt} was accepted, and the task ended in attempt ${task.attempt}`,
      );
  }
  for (const { queue, seen, allowed } of evidence.peaks)
    if (seen > allowed) problems.push(`${seen} tasks of ${queue} ran at once, and only ${allowed} may`);

  const figures: Record<string, number> = {
    'tasks acknowledged': evidence.acknowledged.size,
    'put without an acknowledgement': evidence.found.filter((task) => !evidence.acknowledged.has(task.taskId)).length,
  };
  for (const status of ENDED) figures[status] = evidence.found.filter((task) => task.status === status).length;
  figures['second runs'] = evidence.found.reduce((sum, task) => sum + Math.max(0, task.attempt - 1), 0);
  figures['answers refused as stale'] = evidence.answers.filter((answer) => !answer.accepted).length;
  figures['clients and callbacks told'] = evidence.told.length;
  return { problems, figures };
}

function echoOf(body: string | null): unknown {
  return body === null ? undefined : (JSON.parse(body) as { echo?: unknown } | null)?.echo;
}
