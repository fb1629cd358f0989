/** A CA made and kept by openssl, as operators have them: what Tokaido must take as it is. */
import { execFileSync } from 'node:child_process';
import { chmodSync, existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';

export interface OpensslCertificate {
  readonly certificate: string;
  readonly key: string;
}

/** Options of `openssl req` for a new key. */
const KEYS = {
  p256: ['-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:P-256'],
  rsa: ['-newkey', 'rsa:2048'],
  ed25519: ['-newkey', 'ed25519'],
} as const;

export type OpensslKey = keyof typeof KEYS;

export function openssl(parameters: readonly string[], cwd: string): string {
  return execFileSync('openssl', parameters, { cwd, stdio: ['ignore', 'pipe', 'pipe'], encoding: 'utf8' });
}

export class OpensslCa {
  readonly folder: string;
  readonly certificate: string;
  readonly key: string;

  private constructor(folder: string, { certificate, key }: OpensslCertificate) {
    this.folder = folder;
    this.certificate = certificate;
    this.key = key;
  }

  /** Takes over a CA that exists, to sign lists in its name. */
  static of(folder: string, ca: OpensslCertificate): OpensslCa {
    mkdirSync(folder, { recursive: true });
    const made = new OpensslCa(folder, ca);
    if (existsSync(made.#path('index.txt'))) return made;
    writeFileSync(made.#path('index.txt'), '');
    writeFileSync(made.#path('crlnumber'), '01\n');
    const lines = ['[ca]', 'default_ca=own', '[own]', 'database=index.txt', 'crlnumber=crlnumber'];
    writeFileSync(made.#path('ca.cnf'), [...lines, 'default_md=sha256', 'default_crl_days=30', ''].join('\n'));
    return made;
  }

  /** A new root; `name` goes into its subject. */
  static create(folder: string, name: string, key: OpensslKey = 'p256'): OpensslCa {
    mkdirSync(folder, { recursive: true });
    const subject = ['-subj', `/CN=${name}`, '-days', '3', '-nodes'];
    const usage = ['-addext', 'keyUsage=critical,keyCertSign,cRLSign'];
    openssl(['req', '-x509', ...KEYS[key], '-keyout', 'ca.key', '-out', 'ca.crt', ...subject, ...usage], folder);
    chmodSync(join(folder, 'ca.key'), 0o600);
    return OpensslCa.of(folder, { certificate: join(folder, 'ca.crt'), key: join(folder, 'ca.key') });
  }

  #path(name: string): string {
    return join(this.folder, name);
  }

  /** A certificate with these extensions, each as a line of an openssl configuration. */
  issue(name: string, extensions: readonly string[], key: OpensslKey = 'p256'): OpensslCertificate {
    const files = { certificate: this.#path(`${name}.crt`), key: this.#path(`${name}.key`) };
    writeFileSync(this.#path(`${name}.ext`), `${extensions.join('\n')}\n`);
    openssl(
      ['req', ...KEYS[key], '-nodes', '-keyout', files.key, '-out', `${name}.csr`, '-subj', `/CN=${name}`],
      this.folder,
    );
    const signer = ['-CA', this.certificate, '-CAkey', this.key, '-CAcreateserial', '-days', '2'];
    openssl(
      ['x509', '-req', '-in', `${name}.csr`, ...signer, '-extfile', `${name}.ext`, '-out', files.certificate],
      this.folder,
    );
    chmodSync(files.key, 0o600);
    return files;
  }

  revoke(certificate: string): void {
    this.#ca(['-revoke', certificate]);
  }

  /** The current list, as PEM; the next one is promised for `hours` later. */
  crl(hours = 720): string {
    this.#ca(['-gencrl', '-crlhours', String(hours), '-out', 'list.crl']);
    return readFileSync(this.#path('list.crl'), 'utf8');
  }

  #ca(parameters: readonly string[]): void {
    openssl(['ca', '-config', 'ca.cnf', '-cert', this.certificate, '-keyfile', this.key, ...parameters], this.folder);
  }
}
