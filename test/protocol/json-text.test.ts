import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import fc from 'fast-check';
import { withMembers } from '../../server/protocol/json-text.ts';

// Without escapes in keys: V8 can misread those, see memberTexts.
const plain = fc.constantFrom(...'ab {}[],:_狐😀');

describe('withMembers', () => {
  it('changes what it is told to, wherever that stands, and keeps all else to the letter', () => {
    const text = ' { "10": 1.0,\n "stream" : false , "b":12345678901234567890, "b": 2,"2":"\\u0041" }\n';
    const changed = ' { "10": 1.0,\n "stream" : true , "b":12345678901234567890, "b": 2,"2":"\\u0041","c":3 }\n';
    assert.equal(withMembers(text, { stream: 'true', c: '3' }), changed);
  });

  it('takes members away with what parts them from the others', () => {
    const text = '{ "a": 1, "b": 2, "c": 3 }';
    assert.equal(withMembers(text, { a: undefined }), '{ "b": 2, "c": 3 }');
    assert.equal(withMembers(text, { b: undefined, c: undefined }), '{ "a": 1 }');
    assert.equal(withMembers(text, { a: undefined, b: undefined, c: undefined }), '{  }');
    assert.equal(withMembers(text, { a: undefined, b: undefined, c: undefined, d: '4' }), '{ "d":4 }');
  });

  it('changes each of doubled keys, escaped or not', () => {
    assert.equal(withMembers('{"a":1,"\\u0061":2}', { a: '3' }), '{"a":3,"\\u0061":3}');
    assert.equal(withMembers('{"a":1,"b":0,"\\u0061":2}', { a: undefined }), '{"b":0}');
  });

  it('leaves valid JSON that is no object as it is', () => {
    for (const text of ['[1.0]', ' null', '"{"']) assert.equal(withMembers(text, { a: '1' }), text);
  });

  it('does to the text what is done to the value', () => {
    const key = fc.constantFrom('a', 'b', 'c', 'd', '狐');
    const objects = fc.array(fc.tuple(key, fc.jsonValue({ stringUnit: plain })), { maxLength: 5 });
    const changes = fc.dictionary(key, fc.option(fc.jsonValue({ stringUnit: plain }), { nil: undefined }), {
      maxKeys: 4,
      noNullPrototype: true,
    });
    fc.assert(
      fc.property(objects, changes, fc.nat(2), (members, wanted, indent) => {
        const object: Record<string, unknown> = Object.fromEntries(members);
        const texts = Object.entries(wanted).map(([name, value]) => [
          name,
          value === undefined ? value : JSON.stringify(value),
        ]);
        const text = withMembers(JSON.stringify(object, null, indent), Object.fromEntries(texts));
        assert.deepEqual(JSON.parse(text), JSON.parse(JSON.stringify({ ...object, ...wanted })));
      }),
      { numRuns: 2_000 },
    );
  });
});
