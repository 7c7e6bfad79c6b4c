import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import fc from 'fast-check';
import { type Node, parseTree } from 'jsonc-parser';
import { elementTexts, MalformedJson, memberTexts, minifyJson, parseJson } from '../../server/protocol/json.ts';

const whitespace = fc.string({ unit: fc.constantFrom(' ', '\n', '\t', '\r'), maxLength: 3 });

const plain = fc.constantFrom(...'ab _é狐😀');

/** A JSON string literal in which any character may be written as an escape. */
const stringText = fc
  .array(
    fc.oneof(
      {
        weight: 4,
        arbitrary: fc
          .string({ unit: 'grapheme', minLength: 1, maxLength: 3 })
          .map((s) => JSON.stringify(s).slice(1, -1)),
      },
      fc.constantFrom(
        '\\"',
        '\\\\',
        '\\/',
        '\\n',
        '\\u0061',
        '\\uD83d\\ude00',
        '{',
        '}',
        '[',
        ']',
        ',',
        ':',
        ' ',
        '\\\\\\"',
      ),
    ),
    { maxLength: 6 },
  )
  .map((parts) => `"${parts.join('')}"`);

// Few and short, so that duplicates come up, and the same key in different writing.
const keyText = fc.oneof(
  { weight: 3, arbitrary: fc.constantFrom('"data"', '"d\\u0061ta"', '"body"', '"__proto__"', '""', '"a b"', '"\\""') },
  stringText,
);

const scalarText = fc.oneof(
  stringText,
  fc.constantFrom('1.0', '-0', '0', '12345678901234567890', '1E+2', '-1.5e-7', 'true', 'false', 'null'),
  fc.double({ noNaN: true, noDefaultInfinity: true }).map(String),
);

const {
  value: valueText,
  object: objectText,
  array: arrayText,
} = fc.letrec<{
  value: string;
  object: string;
  array: string;
}>((tie) => ({
  value: fc.oneof({ depthSize: 'small', withCrossShrink: true }, scalarText, tie('object'), tie('array')),
  object: fc
    .tuple(
      fc.array(fc.tuple(whitespace, keyText, whitespace, whitespace, tie('value'), whitespace), { maxLength: 5 }),
      whitespace,
    )
    .map(([members, empty]) => {
      const inner = members.map(([w1, key, w2, w3, value, w4]) => `${w1}${key}${w2}:${w3}${value}${w4}`).join(',');
      return `{${inner === '' ? empty : inner}}`;
    }),
  array: fc
    .tuple(fc.array(fc.tuple(whitespace, tie('value'), whitespace), { maxLength: 5 }), whitespace)
    .map(
      ([elements, empty]) => `[${elements.length === 0 ? empty : elements.map((parts) => parts.join('')).join(',')}]`,
    ),
}));

function spaced(text: fc.Arbitrary<string>): fc.Arbitrary<string> {
  return fc.tuple(whitespace, text, whitespace).map((parts) => parts.join(''));
}

// JSON.parse in Node 24 confuses some escaped keys once it has seen a key with a backslash, so that jsonc-parser is the
// oracle of whatever has escapes: https://github.com/nodejs/node/issues/63785
function childrenOf(text: string): Node[] {
  return parseTree(text)?.children ?? [];
}

function sourceOf(text: string, node: Node | undefined): string {
  assert.ok(node);
  return text.slice(node.offset, node.offset + node.length);
}

function faultOf(text: string): MalformedJson {
  try {
    parseJson(text);
  } catch (error) {
    if (error instanceof MalformedJson) return error;
    throw error;
  }
  throw new Error(`accepted ${text}`);
}

/** The length of the longest beginning of `text` that something could follow to make it valid: where the fault is. */
function faultPosition(text: string): number {
  let position = 0;
  while (position < text.length && isBeginning(text.slice(0, position + 1))) position++;
  return position;
}

function isBeginning(text: string): boolean {
  try {
    JSON.parse(text);
    return true;
  } catch (error) {
    const { message } = error as Error;
    if (/^Unexpected end|^Unterminated string/.test(message)) return true;
    // These are at the end of the text when it is merely cut off, and before it when it is wrong.
    return message.includes(` at position ${text.length} `);
  }
}

describe('parseJson', () => {
  it('gives what JSON.parse gives', () => {
    const text = ' {"b": [1.5, "\\u0041\\n", {"c": null}], "a": 12345678901234567890, "b": true} ';
    assert.deepEqual(parseJson(text), { a: 12345678901234567000, b: true });
    fc.assert(
      fc.property(fc.json({ stringUnit: plain }), fc.nat(2), (json, indent) => {
        const value: unknown = JSON.parse(json);
        assert.equal(JSON.stringify(parseJson(JSON.stringify(value, null, indent))), JSON.stringify(value));
      }),
    );
  });

  const long = 'x'.repeat(60);
  for (const [text, position, reason] of [
    ['', 0, 'Unexpected end of JSON input'],
    ['  ', 2, 'Unexpected end of JSON input'],
    ['{"a":1', 6, "Expected ',' or '}' after property value"],
    ['{"a":', 5, 'Unexpected end of JSON input'],
    ['[1,', 3, 'Unexpected end of JSON input'],
    ['"abc', 4, 'Unterminated string'],
    ['tru', 3, 'Unexpected end of JSON input'],
    ['nul!', 3, "Unexpected token '!'"],
    ['[1, trUe]', 6, "Unexpected token 'U'"],
    [`{"${long}":"${long}","b": fals ,"${long}":1}`, 136, "Unexpected token ' '"],
    [`{"${long}":\n[${long}]}`, 66, "Unexpected token 'x'"],
    ['"a\nb"', 2, 'Bad control character in string literal'],
    ['{"a":"\t"}', 6, 'Bad control character in string literal'],
    ['"\\x"', 2, 'Bad escaped character'],
    ['"\\u12g4"', 5, 'Bad Unicode escape'],
    ['["\\n\\Ā"]', 5, "Unexpected token 'Ā'"],
    ['["\\u0041\\u12Ā"]', 12, 'Bad Unicode escape'],
    ['{} {}', 3, 'Unexpected non-whitespace character after JSON'],
    ['1 at position 7', 2, 'Unexpected non-whitespace character after JSON'],
    ['[at position 7 (line 1 column 8)', 1, "Unexpected token 'a'"],
    ['[1,]', 3, "Unexpected token ']'"],
    ['{"a":1,}', 7, 'Expected double-quoted property name'],
    ['// x\n1', 0, "Unexpected token '/'"],
    ['[1, /* x */ 2]', 4, "Unexpected token '/'"],
    ['[1, /* x', 4, "Unexpected token '/'"],
    ['{"a": // x\n1}', 6, "Unexpected token '/'"],
    ['NaN', 0, "Unexpected token 'N'"],
    ['[NaN]', 1, "Unexpected token 'N'"],
    ['Infinity', 0, "Unexpected token 'I'"],
    ['undefined', 0, "Unexpected token 'u'"],
    ['[object Object]', 1, "Unexpected token 'o'"],
    ["{'a':1}", 1, "Expected property name or '}'"],
    ["['a']", 1, "Unexpected token '''"],
    ['[01]', 2, 'Unexpected number'],
    ['-', 1, 'No number after minus sign'],
    ['[-]', 2, 'No number after minus sign'],
    ['-Infinity', 1, 'No number after minus sign'],
    ['+1', 0, "Unexpected token '+'"],
    ['.5', 0, "Unexpected token '.'"],
    ['1.', 2, 'Unterminated fractional number'],
    ['1e', 2, 'Exponent part is missing a number'],
    ['\uFEFF{}', 0, "Unexpected token '\\ufeff'"],
    ['[\u00a01]', 1, "Unexpected token '\\u00a0'"],
    ['[\u0000]', 1, "Unexpected token '\\u0000'"],
    ['[😀]', 1, "Unexpected token '😀'"],
    ['[}', 1, "Unexpected token '}'"],
  ] as const) {
    it(`places the fault of ${JSON.stringify(text).slice(0, 40)} at ${position}`, () => {
      const fault = faultOf(text);
      assert.equal(fault.message, `malformed JSON at position ${position}: ${reason}`);
      assert.equal(fault.position, position);
    });
  }

  it('places every fault where no continuation could be valid any more', () => {
    const inserted = fc.constantFrom(
      ...[
        '"',
        "'",
        '\\',
        '{',
        '}',
        '[',
        ']',
        ',',
        ':',
        '/',
        '//',
        '/*',
        '*/',
        '-',
        '+',
        '.',
        '0',
        '1',
        'e',
        't',
        'tr',
        'nul',
      ],
      ...['null', 'NaN', 'x', '\n', '\u0000', '\u000b', '\u2028', '\uFEFF', '\ud800', '😀', '\\u00', '"\\u'],
    );
    fc.assert(
      fc.property(spaced(valueText), fc.nat(), fc.nat(3), inserted, fc.boolean(), (text, at, drop, insert, cut) => {
        const pos = at % (text.length + 1);
        const broken = cut ? text.slice(0, pos) + insert : text.slice(0, pos) + insert + text.slice(pos + drop);
        try {
          JSON.parse(broken);
        } catch {
          assert.equal(faultOf(broken).position, faultPosition(broken), JSON.stringify(broken));
        }
      }),
      { numRuns: 1_000 },
    );
  });

  it('accepts 1,000 levels and refuses 1,001', () => {
    for (const [open, close] of [
      ['[', ']'],
      ['{"a":', '}'],
      ['[{"]":', '}]'],
    ] as const) {
      const levels = open.startsWith('[{') ? 2 : 1;
      const nested = (times: number) => `${open.repeat(times)}1${close.repeat(times)}`;
      assert.doesNotThrow(() => parseJson(nested(1000 / levels)));
      assert.equal(faultOf(nested(1000 / levels + 1)).message, 'nested deeper than 1000 levels');
    }
  });

  it('does not count brackets in strings, nor those beside each other', () => {
    assert.doesNotThrow(() => parseJson(JSON.stringify(['[{'.repeat(5000), '\\"['.repeat(5000)])));
    assert.doesNotThrow(() => parseJson(`[${'[],{},'.repeat(5000)}1]`));
  });

  it('survives millions of open brackets', () => {
    assert.equal(faultOf('['.repeat(5_000_000)).message, 'nested deeper than 1000 levels');
    assert.equal(faultOf('{"a":'.repeat(1_000_000)).message, 'nested deeper than 1000 levels');
    assert.equal(faultOf(']'.repeat(1_000_000)).position, 0);
    assert.equal(faultOf(`[1 ${'['.repeat(5_000)}`).position, 3);
    assert.equal(faultOf(`[x,"${'['.repeat(5_000)}`).position, 1);
  });
});

describe('memberTexts', () => {
  it('keeps the source of every value', () => {
    const texts = memberTexts(
      ' { "a" : 1.0 , "big":12345678901234567890,"o":{"b":1, "a":2,"a":3}, "s":"\\u0041\\"}" ,"l":[ ]}\n',
    );
    assert.deepEqual(
      [...texts],
      [
        ['a', '1.0'],
        ['big', '12345678901234567890'],
        ['o', '{"b":1, "a":2,"a":3}'],
        ['s', '"\\u0041\\"}"'],
        ['l', '[ ]'],
      ],
    );
  });

  it('takes the last of duplicate keys, escaped or not', () => {
    assert.equal(memberTexts('{"data":1,"d\\u0061ta":2}').get('data'), '2');
    assert.equal(memberTexts('{"d\\u0061ta":1,"data":2}').get('data'), '2');
  });

  it('has every key once, with the source of its last value', () => {
    fc.assert(
      fc.property(spaced(objectText), (text) => {
        const members = childrenOf(text).map(({ children: [key, value] = [] }) => [key?.value, sourceOf(text, value)]);
        assert.deepEqual(memberTexts(text), new Map(members as [string, string][]));
      }),
      { numRuns: 2_000 },
    );
  });

  it('agrees with JSON.parse', () => {
    fc.assert(
      fc.property(
        fc.dictionary(fc.string({ unit: plain }), fc.jsonValue({ stringUnit: plain })),
        fc.nat(3),
        (object, indent) => {
          const text = JSON.stringify(object, null, indent);
          for (const [key, value] of Object.entries(JSON.parse(text) as Record<string, unknown>)) {
            assert.equal(minifyJson(memberTexts(text).get(key) ?? ''), JSON.stringify(value));
          }
        },
      ),
    );
  });

  it('finds the end of strings that end in backslashes', () => {
    for (let backslashes = 0; backslashes < 6; backslashes++) {
      const value = JSON.stringify(`${'\\'.repeat(backslashes)}"${'\\'.repeat(backslashes)}`);
      assert.equal(memberTexts(`{"a":${value},"b":${value}}`).get('a'), value);
    }
  });

  it('ends, if with a SyntaxError, on text that breaks its contract', () => {
    fc.assert(
      fc.property(fc.string({ unit: fc.constantFrom(...'{}[]",:\\ 1a') }), (text) => {
        try {
          memberTexts(`{${text}`);
        } catch (error) {
          assert.ok(error instanceof SyntaxError);
        }
        elementTexts(`[${text}`);
        minifyJson(text);
      }),
      { numRuns: 2_000 },
    );
  });

  it('throws a TypeError for what is not an object', () => {
    for (const text of ['[]', '1', '', ' "{"']) assert.throws(() => memberTexts(text), TypeError);
  });
});

describe('elementTexts', () => {
  it('has the source of every element, in order', () => {
    fc.assert(
      fc.property(spaced(arrayText), (text) => {
        assert.deepEqual(
          elementTexts(text),
          childrenOf(text).map((node) => sourceOf(text, node)),
        );
      }),
      { numRuns: 2_000 },
    );
  });

  it('changes nothing in an element', () => {
    assert.deepEqual(elementTexts(' [ 1.0 ,"a, ]" , {"b":[1, 2]},null] '), ['1.0', '"a, ]"', '{"b":[1, 2]}', 'null']);
    assert.deepEqual(elementTexts('[ ]'), []);
  });

  it('throws a TypeError for what is not an array', () => {
    for (const text of ['{}', '1', '', ' "["']) assert.throws(() => elementTexts(text), TypeError);
  });
});

describe('minifyJson', () => {
  it('undoes indentation', () => {
    fc.assert(
      fc.property(fc.jsonValue(), (value) => {
        assert.equal(minifyJson(JSON.stringify(value, null, 2)), JSON.stringify(value));
      }),
    );
  });

  it('changes nothing but whitespace', () => {
    assert.equal(
      minifyJson(' { "b" : 1.0 ,\r\n\t"a" : " \\" { " , "a" : 12345678901234567890 } '),
      '{"b":1.0,"a":" \\" { ","a":12345678901234567890}',
    );
    fc.assert(
      fc.property(spaced(valueText), (text) => {
        assert.equal(minifyJson(text), text.replaceAll(/("(?:[^"\\]|\\.)*")|\s/g, '$1'));
      }),
      { numRuns: 2_000 },
    );
  });
});
