import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import fc from 'fast-check';
import { createAddressRule } from '../../server/callbacks/address.ts';

const strict = createAddressRule({ allow: [], allowLoopback: false });

const REFUSED = [
  '0.0.0.0',
  '0.1.2.3',
  '10.0.0.1',
  '10.255.255.255',
  '100.64.0.1',
  '100.127.255.255',
  '127.0.0.1',
  '127.9.9.9',
  '169.254.0.1',
  '169.254.169.254',
  '172.16.0.1',
  '172.31.255.255',
  '192.0.0.8',
  '192.0.2.1',
  '192.88.99.1',
  '192.168.0.1',
  '198.18.0.1',
  '198.19.255.255',
  '198.51.100.7',
  '203.0.113.7',
  '224.0.0.1',
  '239.255.255.255',
  '240.0.0.1',
  '255.255.255.255',
  '::',
  '::1',
  '::127.0.0.1',
  'fc00::1',
  'fdff:ffff::1',
  'fe80::1',
  'fe80::1%eth0',
  'febf::1',
  'fec0::1',
  'ff02::1',
  '100::1',
  '2001::1',
  '2001:db8::1',
  '3fff::1',
  '64:ff9b:1::1',
  '::ffff:127.0.0.1',
  '::ffff:7f00:1',
  '::FFFF:0A00:0001',
  '0:0:0:0:0:ffff:c0a8:1',
  '64:ff9b::10.0.0.1',
  '64:ff9b::a9fe:a9fe',
  '2002:7f00:1::',
  '2002:a00:1::1',
  '2002::1',
];
const PERMITTED = [
  '1.1.1.1',
  '8.8.8.8',
  '9.255.255.255',
  '11.0.0.0',
  '100.63.255.255',
  '100.128.0.0',
  '128.0.0.1',
  '169.253.255.255',
  '172.15.255.255',
  '172.32.0.0',
  '192.167.255.255',
  '198.17.255.255',
  '198.20.0.0',
  '223.255.255.255',
  '2606:4700:4700::1111',
  '2a00:1450:4001:81b::200e',
  '2001:4860:4860::8888',
  '3ffe::1',
  '::ffff:8.8.8.8',
  '64:ff9b::8.8.8.8',
  '2002:808:808::1',
];

describe('permits', () => {
  for (const address of REFUSED) it(`refuses ${address}`, () => assert.equal(strict.permits(address), false));
  for (const address of PERMITTED) it(`permits ${address}`, () => assert.equal(strict.permits(address), true));

  it('refuses what is not an address', () => {
    for (const text of ['', 'example.com', 'localhost', '256.1.1.1', '1.2.3', '[::1]', '2130706433']) {
      assert.equal(strict.permits(text), false, text);
    }
  });

  it('judges an IPv4 address alike in every IPv6 form of it', () => {
    fc.assert(
      fc.property(fc.ipV4(), (v4) => {
        const [a = 0, b = 0, c = 0, d = 0] = v4.split('.').map(Number);
        const hex = `${((a << 8) | b).toString(16)}:${((c << 8) | d).toString(16)}`;
        for (const form of [`::ffff:${v4}`, `::ffff:${hex}`, `64:ff9b::${v4}`, `2002:${hex}::`, `2002:${hex}::5`]) {
          assert.equal(strict.permits(form), strict.permits(v4), form);
        }
      }),
    );
  });

  it('judges an IPv6 address alike however it is written', () => {
    fc.assert(
      fc.property(fc.ipV6(), (address) => {
        const canonical = new URL(`http://[${address}]`).hostname.slice(1, -1);
        assert.equal(strict.permits(address), strict.permits(canonical));
        assert.equal(strict.permits(address.toUpperCase()), strict.permits(canonical));
      }),
    );
  });

  it('permits CIDRs and single addresses that are allowed, and nothing beside them', () => {
    const rule = createAddressRule({
      allow: ['10.1.0.0/16', ' 192.168.7.7 ', 'fd00:1::/32', 'fe80::5'],
      allowLoopback: false,
    });
    for (const address of ['10.1.2.3', '::ffff:10.1.2.3', '192.168.7.7', 'fd00:1::9', 'fe80::5', '8.8.8.8']) {
      assert.equal(rule.permits(address), true, address);
    }
    for (const address of ['10.2.0.1', '192.168.7.8', 'fd00:2::9', 'fe80::6', '127.0.0.1', '::1']) {
      assert.equal(rule.permits(address), false, address);
    }
  });

  it('keeps the families apart', () => {
    const v6 = createAddressRule({ allow: ['::/0'], allowLoopback: false });
    assert.equal(v6.permits('fd00::1'), true);
    assert.equal(v6.permits('10.0.0.1'), false);
    assert.equal(v6.permits('::ffff:10.0.0.1'), false);
    const v4 = createAddressRule({ allow: ['0.0.0.0/0'], allowLoopback: false });
    assert.equal(v4.permits('10.0.0.1'), true);
    assert.equal(v4.permits('fd00::1'), false);
  });

  it('permits loopback, and no other private address, where loopback is allowed', () => {
    const rule = createAddressRule({ allow: [], allowLoopback: true });
    for (const address of ['127.0.0.1', '127.3.3.3', '::1', '::ffff:127.0.0.1'])
      assert.equal(rule.permits(address), true);
    for (const address of ['0.0.0.0', '::', '10.0.0.1', '169.254.169.254']) assert.equal(rule.permits(address), false);
  });
});

describe('createAddressRule', () => {
  for (const bad of [
    '',
    'example.com',
    '10.0.0.0/33',
    '::/129',
    '10.0.0.0/',
    '10.0.0.0/-1',
    '10.0.0.0/8/8',
    '10.0.0.0/a',
    'fe80::1%eth0',
  ]) {
    it(`names the bad entry ${JSON.stringify(bad)}`, () => {
      assert.throws(
        () => createAddressRule({ allow: ['10.0.0.0/8', bad], allowLoopback: false }),
        (error: Error) => error.message.includes(JSON.stringify(bad)),
      );
    });
  }
});

describe('checkUrl', () => {
  it('accepts public addresses and names, which it does not resolve', () => {
    for (const url of [
      'http://example.com/cb?x=1',
      'https://example.com:8443/cb',
      'http://localhost/',
      'http://8.8.8.8/',
      'https://[2606:4700:4700::1111]/',
    ]) {
      assert.equal(strict.checkUrl(url), undefined, url);
    }
  });

  for (const [url, reason] of [
    ['http://2130706433/', /127\.0\.0\.1/],
    ['http://0x7f.1/', /127\.0\.0\.1/],
    ['http://0177.0.0.1/', /127\.0\.0\.1/],
    ['http://127.1/', /127\.0\.0\.1/],
    ['http://127.0.0.1./', /127\.0\.0\.1/],
    ['http://①②⑦.0.0.1/', /127\.0\.0\.1/],
    ['http://%31%32%37.0.0.1/', /127\.0\.0\.1/],
    ['http:127.0.0.1', /127\.0\.0\.1/],
    ['https:\\\\127.0.0.1\\', /127\.0\.0\.1/],
    ['http://0/', /0\.0\.0\.0/],
    ['http://[::ffff:127.0.0.1]/', /::ffff:7f00:1/],
    ['http://[::1]:9000/', /::1/],
    ['http://169.254.169.254/latest/meta-data', /169\.254\.169\.254/],
    ['ftp://example.com/', /neither http nor https/],
    ['file:///etc/passwd', /neither http nor https/],
    ['http://me@example.com/', /credentials/],
    ['http://:secret@example.com/', /credentials/],
    ['', /not a valid URL/],
    ['example.com/cb', /not a valid URL/],
    ['/cb', /not a valid URL/],
    ['http://', /not a valid URL/],
    ['http://a b/', /not a valid URL/],
    ['http://[fe80::1%25eth0]/', /not a valid URL/],
    [`http://example.com/${'a'.repeat(2030)}`, /longer than 2048/],
  ] as const) {
    it(`refuses ${url.slice(0, 50)}`, () => assert.match(strict.checkUrl(url) ?? '', reason));
  }

  it('accepts exactly 2048 characters', () => {
    assert.equal(strict.checkUrl('http://example.com/'.padEnd(2048, 'a')), undefined);
  });
});
