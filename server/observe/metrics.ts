import { Counter, collectDefaultMetrics, Gauge, Registry } from 'prom-client';

type Lane = {
  queue: string;
  level: number;
  waiting: number;
  deferred: number;
  running: number;
  oldest_waiting_ms: number | null;
  total_put_cnt: number;
  total_completed_cnt: number;
};

/** Prometheus metrics: the process's own, and every lane's counts as the database has them when they are asked for. */
export function createMetrics(readLanes: () => Promise<readonly Lane[]>, lateTakes: () => number) {
  const registry = new Registry();
  // The event loop's delay is sampled by a timer, whose interval it includes: at the usual 10 ms that was half of what an idle server costs, at
  // 100 ms a sixth, for percentiles that can't be less than that. How busy the loop is costs nothing to know, and says more.
  collectDefaultMetrics({ register: registry, eventLoopMonitoringPrecision: 2 ** 31 - 1 });
  for (const part of ['min', 'max', 'mean', 'stddev', 'p50', 'p90', 'p99']) {
    registry.removeSingleMetric(`nodejs_eventloop_lag_${part}_seconds`);
  }
  new Counter({
    name: 'nodejs_eventloop_time_seconds_total',
    help: 'Time that the event loop spent, idle or active: active per second, near 1, means that this process is full',
    labelNames: ['state'],
    registers: [registry],
    collect() {
      const { idle, active } = performance.eventLoopUtilization();
      this.reset();
      this.inc({ state: 'idle' }, idle / 1000);
      this.inc({ state: 'active' }, active / 1000);
    },
  });
  const labelNames = ['queue', 'level'];
  const tasks = new Gauge({
    name: 'tasklane_tasks',
    help: 'Tasks that have not ended, by state',
    labelNames: [...labelNames, 'state'],
    registers: [registry],
  });
  const oldest = new Gauge({
    name: 'tasklane_oldest_waiting_seconds',
    help: 'Age of the oldest waiting task',
    labelNames,
    registers: [registry],
  });
  const put = new Counter({ name: 'tasklane_put_total', help: 'Tasks ever put', labelNames, registers: [registry] });
  const ended = new Counter({
    name: 'tasklane_ended_total',
    help: 'Tasks that ever ended',
    labelNames,
    registers: [registry],
  });
  const late = new Counter({
    name: 'tasklane_late_takes_total',
    help: 'Takes that waited and found work only when they looked by themselves, up to a second late: a wake-up was lost',
    registers: [registry],
  });

  return {
    async render(): Promise<{ contentType: string; text: string }> {
      for (const metric of [tasks, oldest, put, ended, late]) metric.reset();
      late.inc(lateTakes());
      for (const lane of await readLanes()) {
        const labels = { queue: lane.queue, level: lane.level };
        for (const state of ['waiting', 'deferred', 'running'] as const) tasks.set({ ...labels, state }, lane[state]);
        oldest.set(labels, (lane.oldest_waiting_ms ?? 0) / 1000);
        put.inc(labels, lane.total_put_cnt);
        ended.inc(labels, lane.total_completed_cnt);
      }
      return { contentType: registry.contentType, text: await registry.metrics() };
    },
  };
}
export type Metrics = ReturnType<typeof createMetrics>;
