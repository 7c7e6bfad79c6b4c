import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { answerText, chunkText } from '../../../client/cli/answer-text.ts';
import { textOf } from '../../../client/cli/arguments.ts';
import { itemsOf } from '../../../client/cli/items.ts';
import { messagesOf } from '../../../client/cli/messages.ts';
import { renderTable } from '../../../client/cli/output.ts';
import { ago, span } from '../../../client/cli/times.ts';
import { fitted } from '../../../client/cli/top-frame.ts';

describe('messages on the command line', () => {
  it('are parted at a comma only where another begins', async () => {
    const given = ['system:Be brief, and kind,user:Hello, user: it is me, and you', 'assistant:Yes?'];
    assert.deepEqual(await messagesOf(given), [
      { role: 'system', content: 'Be brief, and kind' },
      { role: 'user', content: 'Hello' },
      { role: 'user', content: ' it is me, and you' },
      { role: 'assistant', content: 'Yes?' },
    ]);
  });

  it('are refused without a role that is known, as a fault of usage', async () => {
    for (const given of ['Hello', 'me:Hello']) await assert.rejects(messagesOf([given]), { exitCode: 2 });
  });

  it('may begin with an @ that names no file', async () => {
    assert.equal(await textOf('@@home'), '@home');
    await assert.rejects(textOf('@no-such-file'), { exitCode: 2, message: 'no-such-file: there is no such file' });
  });
});

describe('the text of an answer', () => {
  it('is what the model wrote, whatever the endpoint', () => {
    const output = [
      { type: 'reasoning' },
      {
        content: [
          { type: 'output_text', text: 'a' },
          { type: 'output_text', text: 'b' },
        ],
      },
    ];
    assert.equal(answerText({ choices: [{ message: { content: 'chat' } }] }), 'chat');
    assert.equal(answerText({ choices: [{ text: 'completion' }] }), 'completion');
    assert.equal(answerText({ output }), 'ab');
    assert.equal(answerText({ message: { content: 'ollama' } }), 'ollama');
    assert.equal(answerText({ response: 'ollama' }), 'ollama');
    assert.equal(answerText({ data: [{ embedding: [1] }, { embedding: [2] }] }), '[[1],[2]]');
    assert.equal(answerText({ embeddings: [[3]] }), '[[3]]');
    assert.equal(answerText({ error: { message: 'no' } }), 'no');
    assert.equal(answerText({ else: 1 }), '{"else":1}');
    assert.equal(answerText(null), 'null');
  });

  it('comes in pieces, of which others than those of text are empty', () => {
    assert.equal(chunkText({ choices: [{ delta: { content: 'a' } }] }), 'a');
    assert.equal(chunkText({ choices: [{ delta: { role: 'assistant' } }] }), '');
    assert.equal(chunkText({ choices: [], usage: {} }), '');
    assert.equal(chunkText({ choices: [{ text: 'b' }] }), 'b');
    assert.equal(chunkText({ type: 'response.output_text.delta', delta: 'c' }), 'c');
    assert.equal(chunkText({ type: 'response.completed', response: {} }), '');
    assert.equal(chunkText({ message: { content: 'd' }, done: false }), 'd');
    assert.equal(chunkText({ response: 'e' }), 'e');
    assert.equal(chunkText({ percent: 3 }), undefined);
  });
});

describe("ollama-queue's batch files", () => {
  const items = (text: string) => itemsOf(new Blob([text]));

  it('are told from others, and what is wrong with an item is said', async () => {
    const item = { type: 'embed', model: 'm', input: 'x' };
    assert.deepEqual(await items(`\n[${JSON.stringify(item)}]`), [item]);
    assert.deepEqual(await items(`${JSON.stringify(item)}\n\n${JSON.stringify(item)}\n`), [item, item]);
    assert.equal(await items('{"custom_id": "1", "url": "/v1/embeddings", "body": {"type": "chat"}}'), undefined);
    await assert.rejects(items('[{"type": "sing", "model": "m"}]'), {
      message: 'item 1: type must be chat, generate or embed',
    });
    await assert.rejects(items('[{"type": "chat", "model": "m"}]'), { message: 'item 1: a chat needs messages' });
    await assert.rejects(items('[{"type":'), { exitCode: 2 });
  });
});

describe('what people read', () => {
  it('has times in a few words', () => {
    assert.deepEqual([0.25, 45, 200, 3900, 190_000].map(span), ['0.3s', '45s', '3m', '1h 5m', '2d 4h']);
    assert.deepEqual([ago(0), ago(1000, 181_000), ago(65_000, 5000), ago(1000, 1100)], ['-', '3m ago', 'in 1m', 'now']);
  });

  it('has tables whose long columns are cut to the width there is, wide characters and colours counted for what they take', async () => {
    const columns = [{ head: 'ID' }, { head: 'NAME', cut: true }, { head: 'N', right: true }];
    const rows = [
      ['\u001b[32mgreen\u001b[39m', '模型'.repeat(20), 7],
      ['b', null, 1234],
    ];
    const lines = (await renderTable(columns, rows, 40)).split('\n');
    assert.equal(lines[0], 'ID     NAME                            N');
    assert.match(lines[1] ?? '', /green.* +模型(模型)+模?… +7$/);
    assert.equal(lines[2], 'b      -                            1234');
    assert.match((await renderTable(columns, rows)).split('\n')[1] ?? '', /(模型){20} {5}7$/);
  });

  it('has as many lines of top as a terminal has room for, from where it was scrolled to', () => {
    const body = Array.from({ length: 50 }, (_, n) => `line ${n + 1}`);
    const shown = (from: number, lines = body) => fitted(['head'], lines, from, 10);
    assert.deepEqual([shown(0).lines.length, shown(0).lines[2], shown(-5).at], [10, 'line 1', 0]);
    assert.match(shown(3).lines[9] ?? '', /^lines 4 to 10 of 50 .* q leaves$/);
    assert.deepEqual([shown(999).at, shown(999).lines[8]], [43, 'line 50']);
    assert.deepEqual(shown(7, ['all']).lines, ['head', '', 'all', 'q leaves']);
    assert.equal(fitted(['head', 'more'], body, 0, 2).lines.length, 2, 'a terminal of two lines');
  });
});
