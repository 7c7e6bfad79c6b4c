#!/usr/bin/env node
// What `tasklane` runs: TypeScript in a clone, its compiled form in the package. Plain, so that an old Node gets far enough to say that it is old.
import { existsSync } from 'node:fs';
import * as nodeModule from 'node:module';

const source = new URL('cli/main.ts', import.meta.url);
const isClone = existsSync(source);
// Types are stripped from 22.18 on; AbortSignal.any and what else the client needs are there from 20.11 on.
const least = isClone ? [22, 18] : [20, 11];
const [major, minor] = process.versions.node.split('.').map(Number);

if (major > least[0] || (major === least[0] && minor >= least[1])) {
  if (nodeModule.enableCompileCache) nodeModule.enableCompileCache();
  void import(isClone ? source.href : new URL('../dist/client/cli/main.js', import.meta.url).href);
} else {
  process.stderr.write(`tasklane: Node ${process.versions.node} is too old: it takes ${least.join('.')} or newer\n`);
  process.exit(1);
}
