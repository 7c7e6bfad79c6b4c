import { z } from 'zod';
import { mapped } from './names.ts';

const NAMES = /^(?:retry-after|x-request-id|openai-processing-ms|x-ratelimit-[a-z0-9-]+)$/;
const MAX_HEADERS = 16;
const MAX_CHARACTERS = 4096;

/** What goes on of a model server's headers: these names, as many and as long as a reply can bear. The others are left out. */
export const answerHeaders = mapped(z.record(z.string(), z.string()), (given) => {
  const kept: Record<string, string> = {};
  let characters = 0;
  for (const [key, value] of Object.entries(given)) {
    const name = key.toLowerCase();
    // A header's value has no control characters, and nothing beyond Latin-1.
    if (!NAMES.test(name) || !/^[\t\x20-\x7e\xa0-\xff]*$/.test(value)) continue;
    characters += name.length + value.length;
    if (Object.keys(kept).length === MAX_HEADERS || characters > MAX_CHARACTERS) break;
    kept[name] = value;
  }
  return kept;
});
