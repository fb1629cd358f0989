/** Asks a TLS port with openssl, as a scanner does. */
import { execFileSync, spawn } from 'node:child_process';
import { once } from 'node:events';

const LIMIT_MS = 10_000;
const TYPED_MS = 300;
/** Groups that nobody should agree on. */
export const WEAK_GROUPS = ['P-192', 'secp160r1', 'secp192k1'] as const;

/** What `openssl s_client` says after one handshake, and after `typed` (`R` asks for renegotiation). */
export async function scanTls(
  port: number,
  options: readonly string[],
  typed = 'Q\n',
): Promise<{ open: boolean; text: string }> {
  const parameters = ['s_client', '-connect', `127.0.0.1:${port}`, ...options];
  const child = spawn('openssl', parameters, { timeout: LIMIT_MS, stdio: ['pipe', 'pipe', 'pipe'] });
  let text = '';
  child.stdout.on('data', (chunk) => (text += chunk));
  child.stderr.on('data', (chunk) => (text += chunk));
  child.stdin.on('error', () => undefined);
  child.stdin.write(typed);
  const ended = once(child, 'close');
  const timer = setTimeout(() => child.stdin.end(), typed.startsWith('Q') ? 0 : TYPED_MS);
  await ended;
  clearTimeout(timer);
  return { open: /New, TLSv|Cipher is (?!\(NONE\))/.test(text), text };
}

/** Every cipher suite of TLS 1.2 and before that this openssl knows. */
export function oldSuites(): string[] {
  const known = execFileSync('openssl', ['ciphers', '-s', '-tls1_2', 'ALL:COMPLEMENTOFALL:@SECLEVEL=0'], {
    encoding: 'utf8',
  });
  return known
    .trim()
    .split(':')
    .filter((name) => name !== '' && !name.startsWith('TLS_'));
}
