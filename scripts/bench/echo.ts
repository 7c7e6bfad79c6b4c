import express from 'express';

// The floor: what Express and Node cost for the same request when nothing is done with it.
const app = express();
app.disable('x-powered-by');
app.disable('etag');
app.set('query parser', false);
app.post('/echo', (req, res) => {
  const chunks: Buffer[] = [];
  req.on('data', (chunk: Buffer) => chunks.push(chunk));
  req.on('end', () => {
    const body = Buffer.concat(chunks);
    res.writeHead(200, { 'Content-Type': 'application/json', 'Content-Length': body.length }).end(body);
  });
});
const server = app.listen(0, '127.0.0.1', () => {
  const address = server.address();
  if (typeof address === 'object' && address)
    process.stdout.write(`echo listening on http://127.0.0.1:${address.port}\n`);
});
