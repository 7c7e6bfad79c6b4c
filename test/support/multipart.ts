/** A part of a multipart form; `headers` are lines beside Content-Disposition. */
export type Part = { name: string; value: string | Uint8Array; filename?: string; headers?: string[] };

export const BOUNDARY = 'a0b1c2d3e4f5';

/** A form as bytes, its parts in this order. */
export function multipart(parts: Part[], boundary = BOUNDARY): Buffer {
  const pieces: Uint8Array[] = [];
  for (const { name, value, filename, headers = [] } of parts) {
    const file = filename === undefined ? '' : `; filename="${filename}"`;
    const lines = [`--${boundary}`, `Content-Disposition: form-data; name="${name}"${file}`, ...headers, '', ''];
    pieces.push(Buffer.from(lines.join('\r\n')), Buffer.from(value), Buffer.from('\r\n'));
  }
  return Buffer.concat([...pieces, Buffer.from(`--${boundary}--\r\n`)]);
}

export const formHeaders = (boundary = BOUNDARY) => ({ 'Content-Type': `multipart/form-data; boundary=${boundary}` });
