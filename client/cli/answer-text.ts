type Fields = Record<string, unknown>;
const fields = (value: unknown): Fields => (typeof value === 'object' && value !== null ? (value as Fields) : {});
const first = (value: unknown): Fields => fields(Array.isArray(value) ? value[0] : undefined);
const text = (value: unknown): string | undefined => (typeof value === 'string' ? value : undefined);

/** What a person wants to read of an answer: the text that the model wrote; embeddings, and what nobody knows, as JSON. */
export function answerText(body: unknown): string {
  const { choices, message, response, output, error } = fields(body);
  const choice = first(choices);
  return (
    text(body) ??
    text(fields(choice.message).content) ??
    text(choice.text) ??
    text(fields(message).content) ??
    text(response) ??
    outputText(output) ??
    text(fields(error).message) ??
    // An answer may have no body at all.
    JSON.stringify(embeddings(body) ?? body) ??
    ''
  );
}

/** The piece of text that an event of a stream adds, of chat, completions, responses, and Ollama's chat and generate; undefined where it is no such event. */
export function chunkText(data: unknown): string | undefined {
  const { choices, message, response, type, delta } = fields(data);
  if (typeof type === 'string') return type === 'response.output_text.delta' ? text(delta) : '';
  if (Array.isArray(choices)) {
    const choice = first(choices);
    return text(fields(choice.delta).content) ?? text(choice.text) ?? '';
  }
  return text(fields(message).content) ?? text(response);
}

function outputText(output: unknown): string | undefined {
  if (!Array.isArray(output)) return undefined;
  const parts = output.flatMap((item) =>
    Array.isArray(fields(item).content) ? (fields(item).content as unknown[]) : [],
  );
  const texts = parts
    .filter((part) => fields(part).type === 'output_text')
    .map((part) => text(fields(part).text) ?? '');
  return texts.length > 0 ? texts.join('') : undefined;
}

/** The vectors alone: of OpenAI's `data`, and of Ollama's `embeddings`. */
function embeddings(body: unknown): unknown {
  const { data, embeddings } = fields(body);
  if (Array.isArray(embeddings)) return embeddings;
  if (Array.isArray(data) && data.every((item) => 'embedding' in fields(item)))
    return data.map((item) => item.embedding);
  return undefined;
}
