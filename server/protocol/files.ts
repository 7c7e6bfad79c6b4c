import { z } from 'zod';
import { shortText } from './names.ts';
import { expiresAfter, queryInteger } from './openai.ts';

const PURPOSES = ['fine-tune', 'assistants', 'batch', 'user_data', 'evals', 'vision'];
const MAX_UPLOAD_BYTES = 8 * 1024 ** 3;

const fileName = shortText(255).min(1);

/** What a file may be uploaded for, and what is said of anything else. */
const purpose = z
  .string()
  .refine((value) => PURPOSES.includes(value), {
    error: ({ input }) =>
      `'${String(input).slice(0, 100)}' is not one of [${PURPOSES.map((one) => `'${one}'`).join(', ')}] - 'purpose'`,
    params: { code: null },
  })
  .meta({ enum: PURPOSES });

/** The form of an upload; `file` is the file's name. */
export const fileForm = z.object({ file: fileName, purpose, expires_after: expiresAfter.optional() });
/** What can be judged of it before all of it is there. */
export const beginningOfForm = fileForm.pick({ file: true, purpose: true }).partial();

/** The bytes of a file, where a form is described. */
const content = z.string().meta({ format: 'binary' });
export const fileFormContent = fileForm.extend({ file: content });
export const partFormContent = z.object({ data: content });

export const fileListQuery = z.object({
  limit: queryInteger(1, 10_000).default(10_000),
  order: z.enum(['asc', 'desc']).default('desc'),
  after: shortText(256).optional(),
  purpose: shortText(256).optional(),
});

export const uploadBody = z.object({
  bytes: z.int().min(1).max(MAX_UPLOAD_BYTES),
  filename: fileName,
  mime_type: shortText(255).min(1),
  purpose,
  expires_after: expiresAfter.nullish(),
});

export const completeUploadBody = z.object({
  part_ids: z.array(shortText(64).min(1)).min(1).max(10_000),
  md5: z
    .string()
    .regex(/^[0-9a-fA-F]{32}$/, 'not 32 hexadecimal digits')
    .nullish(),
});
