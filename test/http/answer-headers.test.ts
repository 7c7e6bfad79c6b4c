import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { readStream } from '../support/read-stream.ts';
import { CHAT, fixture } from './fixture.ts';
