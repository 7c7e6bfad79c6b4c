import type { SingleBar } from 'cli-progress';

/** Done, of how many, and how many of them failed. */
export type Progress = { done: number; total: number; failed: number };

/** A bar with rate and ETA on stderr, where that is a terminal; else nothing. */
export async function showProgress(): Promise<{ update(progress: Progress): void; stop(): void }> {
  if (!process.stderr.isTTY) return { update: () => undefined, stop: () => undefined };
  const { default: progress } = await import('cli-progress');
  let bar: SingleBar | undefined;
  let began = 0;
  let doneBefore = 0;
  return {
    update({ done, total, failed }) {
      if (total === 0) return;
      if (bar === undefined) {
        bar = new progress.SingleBar({
          format: '{bar} {percentage}%  {value}/{total}  {rate}/s  ETA {left}{faults}',
          barCompleteChar: '█',
          barIncompleteChar: '░',
          barsize: 24,
          hideCursor: true,
          stopOnComplete: false,
          stream: process.stderr,
        });
        began = Date.now();
        doneBefore = done;
        bar.start(total, done, { rate: '-', left: '-', faults: '' });
      }
      const rate = (done - doneBefore) / Math.max((Date.now() - began) / 1000, 0.001);
      bar.setTotal(total);
      bar.update(done, {
        rate: rate >= 10 ? Math.round(rate) : rate.toFixed(1),
        left: rate > 0 ? time((total - done) / rate) : '-',
        faults: failed > 0 ? `  ${failed} failed` : '',
      });
    },
    stop() {
      bar?.stop();
      bar = undefined;
    },
  };
}

function time(seconds: number): string {
  const whole = Math.ceil(seconds);
  const [hours, minutes] = [Math.floor(whole / 3600), Math.floor(whole / 60) % 60];
  const padded = (number: number) => String(number).padStart(2, '0');
  return hours > 0 ? `${hours}:${padded(minutes)}:${padded(whole % 60)}` : `${minutes}:${padded(whole % 60)}`;
}
