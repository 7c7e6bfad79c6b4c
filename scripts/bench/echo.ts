import express from 'express';

// What Express and Node cost for the same request when nothing is done with it: /echo as an Express program is usually written,
// /raw with the least code, which is as fast as Express gets.
const app = express();
app.post('/raw', (req, res) => {
  const chunks: Buffer[] = [];
  req.on('data', (chunk: Buffer) => chunks.push(chunk));
  req.on('end', () => {
    const body = Buffer.concat(chunks).toString();
    res.writeHead(200, { 'Content-Type': 'application/json', 'Content-Length': Buffer.byteLength(body) }).end(body);
  });
});
app.post('/echo', express.json(), (req, res) => {
  res.json(req.body);
});
const server = app.listen(0, '127.0.0.1', () => {
  const address = server.address();
  if (typeof address === 'object' && address)
    process.stdout.write(`echo listening on http://127.0.0.1:${address.port}\n`);
});
