import { BlockList, isIP } from 'node:net';

const MAX_URL_LENGTH = 2048;

const REFUSED_V4 = [
  '0.0.0.0/8', // unspecified, "this network"
  '10.0.0.0/8', // private
  '100.64.0.0/10', // carrier-grade NAT
  '127.0.0.0/8', // loopback
  '169.254.0.0/16', // link-local, with the clouds' metadata service at 169.254.169.254
  '172.16.0.0/12', // private
  '192.0.0.0/24', // protocol assignments
  '192.0.2.0/24', // documentation
  '192.88.99.0/24', // 6to4 relays, withdrawn
  '192.168.0.0/16', // private
  '198.18.0.0/15', // benchmarks
  '198.51.100.0/24', // documentation
  '203.0.113.0/24', // documentation
  '224.0.0.0/4', // multicast
  '240.0.0.0/4', // reserved, and broadcast
];

// Everything public is in 2000::/3. What is outside it (::, ::1, fc00::/7, fe80::/10, ff00::/8, the local NAT64
// 64:ff9b:1::/48, …) is refused without being listed.
const PUBLIC_V6 = ['2000::/3'];
const REFUSED_V6 = [
  '2001::/23', // protocol assignments, Teredo among them, which hides an IPv4 address
  '2001:db8::/32', // documentation
  '3fff::/20', // documentation
];

const LOOPBACK = ['127.0.0.0/8', '::1'];

export type AddressRule = {
  /** Whether a callback may connect to an IPv4 or IPv6 address; false for anything else. */
  permits(address: string): boolean;
  /** Why a callback URL is refused, or undefined. Host names are not resolved; sending judges them. */
  checkUrl(url: string): string | undefined;
};

/**
 * The rule for where callbacks may go: public addresses, and what `allow` names.
 * @param options.allow CIDRs or single addresses, v4 and v6
 * @throws Error naming an entry of `allow` that is neither
 */
export function createAddressRule(options: { allow: readonly string[]; allowLoopback: boolean }): AddressRule {
  const isAllowed = addressSet([...options.allow, ...(options.allowLoopback ? LOOPBACK : [])]);
  const isRefused = addressSet([...REFUSED_V4, ...REFUSED_V6]);
  const isPublicV6 = addressSet(PUBLIC_V6);

  function permits(address: string): boolean {
    const family = isIP(address);
    if (family === 0) return false;
    if (family === 4) return isAllowed(address) || !isRefused(address);
    // A zone (fe80::1%eth0) names an interface of this machine; an address with one is never public.
    if (address.includes('%')) return false;
    const embedded = embeddedV4(address);
    if (embedded !== undefined) return permits(embedded);
    return isAllowed(address) || (isPublicV6(address) && !isRefused(address));
  }

  function checkUrl(url: string): string | undefined {
    if (url.length > MAX_URL_LENGTH) return `longer than ${MAX_URL_LENGTH} characters`;
    if (!URL.canParse(url)) return 'not a valid URL';
    const { protocol, username, password, hostname } = new URL(url);
    if (protocol !== 'http:' && protocol !== 'https:') return 'neither http nor https';
    if (username !== '' || password !== '') return 'carries credentials';
    const address = literalAddress(hostname);
    if (address !== undefined && !permits(address)) return `address ${address} is not permitted`;
    return undefined;
  }

  return { permits, checkUrl };
}

// The URL parser has turned 2130706433, 0x7f.1, 127.1, full-width digits and a trailing dot into plain dotted decimals.
function literalAddress(hostname: string): string | undefined {
  const address = hostname.startsWith('[') ? hostname.slice(1, -1) : hostname;
  return isIP(address) === 0 ? undefined : address;
}

/** The IPv4 address in an IPv4-mapped (::ffff:0:0/96), NAT64 (64:ff9b::/96) or 6to4 (2002::/16) address. */
function embeddedV4(address: string): string | undefined {
  const groups = groupsOf(address);
  const prefix = groups.slice(0, 6).join(':');
  if (groups[0] === '2002') return dotted(groups[1], groups[2]);
  if (prefix === '0:0:0:0:0:ffff' || prefix === '64:ff9b:0:0:0:0') return dotted(groups[6], groups[7]);
  return undefined;
}

/** The eight groups of an IPv6 address without a zone, in lower-case hex without leading zeros. */
function groupsOf(address: string): string[] {
  // The URL parser normalises every notation, dotted tails included.
  const [head = '', tail] = new URL(`http://[${address}]`).hostname.slice(1, -1).split('::');
  const left = head === '' ? [] : head.split(':');
  if (tail === undefined) return left;
  const right = tail === '' ? [] : tail.split(':');
  return [...left, ...Array<string>(8 - left.length - right.length).fill('0'), ...right];
}

function dotted(high = '0', low = '0'): string {
  const bits = (Number.parseInt(high, 16) << 16) | Number.parseInt(low, 16);
  return [bits >>> 24, (bits >>> 16) & 255, (bits >>> 8) & 255, bits & 255].join('.');
}

function addressSet(entries: readonly string[]): (address: string) => boolean {
  // One list for each family: in a common one ::/0 holds every IPv4 address as well.
  const v4 = new BlockList();
  const v6 = new BlockList();
  for (const entry of entries) {
    const [network = '', bits, ...rest] = entry.trim().split('/');
    const family = isIP(network);
    const width = family === 4 ? 32 : 128;
    const prefix = bits === undefined ? width : /^\d{1,3}$/.test(bits) ? Number(bits) : Number.NaN;
    // NaN fails the comparison too.
    if (family === 0 || network.includes('%') || rest.length > 0 || !(prefix <= width)) {
      throw new Error(`allowed callback address ${JSON.stringify(entry)} is neither a CIDR nor an IP address`);
    }
    if (family === 4) v4.addSubnet(network, prefix, 'ipv4');
    else v6.addSubnet(network, prefix, 'ipv6');
  }
  return (address) => (isIP(address) === 4 ? v4.check(address, 'ipv4') : v6.check(address, 'ipv6'));
}
