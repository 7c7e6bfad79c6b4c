import { resumable } from './event-stream.ts';
import type { CallOptions, Http } from './http.ts';
import { sleep } from './http.ts';
import { type Page, pages } from './page.ts';
import type {
  Batch,
  BatchExplanation,
  BatchLine,
  BatchResult,
  BatchStatus,
  BatchValidation,
  StoredFile,
} from './types.ts';

type Options = CallOptions;
/** JSON lines as a text or a Blob, or the lines themselves. */
export type BatchInput = string | Blob | Iterable<BatchLine> | AsyncIterable<BatchLine>;

const ENDED: ReadonlySet<BatchStatus> = new Set(['failed', 'completed', 'expired', 'cancelled']);
const FIRST_LOOK_MS = 100;
const LONGEST_LOOK_MS = 2000;

/** Whether a batch is in a state that never changes. Its files are there then. */
export const batchHasEnded = ({ status }: Pick<Batch, 'status'>): boolean => ENDED.has(status);

/** OpenAI's files and batches; the `openai` package works, too. */
export function batchesOf(http: Http) {
  const path = (id: string, action = '') => `/v1/batches/${encodeURIComponent(id)}${action}`;
  const filePath = (id: string) => `/v1/files/${encodeURIComponent(id)}`;
  const get = (id: string, options: Options = {}): Promise<Batch> => http.json('GET', path(id), options);

  const files = {
    /** Throws TooLargeError over the server's limit. */
    upload(
      content: Blob | string,
      file: { filename?: string; purpose?: string } = {},
      options: Options = {},
    ): Promise<StoredFile> {
      const form = new FormData();
      form.set('purpose', file.purpose ?? 'batch');
      form.set('file', typeof content === 'string' ? new Blob([content]) : content, file.filename ?? 'batch.jsonl');
      // A repeat leaves a second file behind, which does no harm: a batch's files expire.
      return http.json('POST', '/v1/files', { ...options, body: form, repeatable: true, timeoutMs: 'none' });
    },
    get: (id: string, options: Options = {}): Promise<StoredFile> => http.json('GET', filePath(id), options),
    list(query: { purpose?: string; limit?: number } = {}, options: Options = {}): Page<StoredFile> {
      return pages(
        (after) => http.json('GET', '/v1/files', { ...options, query: { ...query, after } }),
        (file) => file.id,
      );
    },
    /** The reply whose body is the file: `await (…).text()`, or its `body` as a stream. */
    content: (id: string, options: Options = {}): Promise<Response> =>
      http.open('GET', `${filePath(id)}/content`, options),
    async remove(id: string, options: Options = {}): Promise<void> {
      await http.json('DELETE', filePath(id), options);
    },
  };

  return {
    files,
    batches: {
      /**
       * Uploads the lines and runs them as a batch. `endpoint` is that of the first line by default; `queue` takes all lines, in place of the routes of
       * their models. The batch begins as `validating`, and is `failed` where its lines are at fault.
       */
      async submit(
        input: BatchInput,
        batch: {
          endpoint?: string;
          completionWindow?: string;
          queue?: string;
          metadata?: Record<string, string>;
          filename?: string;
        } = {},
        options: Options = {},
      ): Promise<Batch> {
        const content = typeof input === 'string' || input instanceof Blob ? input : await linesOf(input);
        const endpoint = batch.endpoint ?? (await endpointOf(content));
        const file = await files.upload(
          content,
          batch.filename === undefined ? {} : { filename: batch.filename },
          options,
        );
        return http.json('POST', '/v1/batches', {
          ...options,
          body: {
            input_file_id: file.id,
            endpoint,
            completion_window: batch.completionWindow ?? '24h',
            ...(batch.metadata && { metadata: batch.metadata }),
          },
          headers: {
            'Idempotency-Key': crypto.randomUUID(),
            ...(batch.queue === undefined ? {} : { 'X-BELLA-QUEUE-NAME': batch.queue }),
          },
          repeatable: true,
        });
      },

      get,
      list(query: { limit?: number } = {}, options: Options = {}): Page<Batch> {
        return pages(
          (after) => http.json('GET', '/v1/batches', { ...options, query: { ...query, after } }),
          (batch) => batch.id,
        );
      },
      /** Throws ConflictError for one that has ended. */
      cancel: (id: string, options: Options = {}): Promise<Batch> => http.json('POST', path(id, '/cancel'), options),
      /** Hands out none of its lines until it is resumed. */
      pause: (id: string, options: Options = {}): Promise<Batch> => http.json('POST', path(id, '/pause'), options),
      resume: (id: string, options: Options = {}): Promise<Batch> => http.json('POST', path(id, '/resume'), options),
      /** Runs what got no good answer again, as a batch of its own. Throws ConflictError for one that has not ended. */
      retryFailed: (id: string, options: Options = {}): Promise<Batch> =>
        http.json('POST', path(id, '/retry_failed'), {
          ...options,
          headers: { 'Idempotency-Key': crypto.randomUUID() },
          repeatable: true,
        }),
      /** Why it is where it is, and when it may be through. */
      explain: (id: string, options: Options = {}): Promise<BatchExplanation> =>
        http.json('GET', path(id, '/explain'), options),
      /** Looks at a file's lines as a batch would, without running them. */
      validate(
        { queue, ...body }: { input_file_id: string; endpoint: string; queue?: string },
        options: Options = {},
      ): Promise<BatchValidation> {
        const headers = queue === undefined ? {} : { 'X-BELLA-QUEUE-NAME': queue };
        return http.json('POST', '/v1/batches/validate', { ...options, body, headers, repeatable: true });
      },

      /** Waits until it has ended. `onProgress` gets it first as it is, then whenever it was looked at: every two seconds at least. */
      async wait(id: string, options: Options & { onProgress?: (batch: Batch) => void } = {}): Promise<Batch> {
        for (let pause = FIRST_LOOK_MS; ; pause = Math.min(pause * 1.5, LONGEST_LOOK_MS)) {
          const batch = await get(id, options);
          options.onProgress?.(batch);
          if (batchHasEnded(batch)) return batch;
          await sleep(pause, options.signal);
        }
      },

      /** What came of its lines, in the order in which they ended: those that have, then the others as they do, until the batch has ended. */
      async *results<Body = unknown>(id: string, options: Options = {}): AsyncGenerator<BatchResult<Body>, void> {
        const isLast = ({ event }: { event: string | undefined }) => event === 'end';
        for await (const { event, data } of resumable(http, path(id, '/results'), { ...options, isLast })) {
          if (event === 'line') yield JSON.parse(data) as BatchResult<Body>;
        }
      },
    },
  };
}

async function linesOf(lines: Iterable<BatchLine> | AsyncIterable<BatchLine>): Promise<Blob> {
  const parts: string[] = [];
  for await (const line of lines) parts.push(`${JSON.stringify(line)}\n`);
  return new Blob(parts);
}

/** The url of the first line; what is no batch line is left for the server to explain. */
async function endpointOf(content: string | Blob): Promise<string> {
  const start = typeof content === 'string' ? content : await firstLineOf(content);
  const line = start.split('\n').find((text) => text.trim() !== '') ?? '';
  try {
    const { url } = JSON.parse(line.replace(/^\uFEFF/, ''));
    if (typeof url === 'string') return url;
  } catch {}
  throw new TypeError('the first line names no url: give the endpoint');
}

async function firstLineOf(content: Blob): Promise<string> {
  for (let length = 1 << 16; ; length *= 4) {
    const text = await content.slice(0, length).text();
    if (text.trimStart().includes('\n') || length >= content.size) return text;
  }
}
