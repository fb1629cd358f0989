/**
 * Clusters on certificates in exactly the shape that step-ca and Vault issue: an intermediate behind the leaf, its key
 * usage and extensions, the key's form. step: `DefaultLeafTemplate`, `DefaultIntermediateTemplate` and
 * `DefaultRootTemplate` of go.step.sm/crypto/x509util, with the provisioner extension that step-ca adds. Vault: what
 * `pki/issue` gives for a role with the defaults (RSA 2048, the common name among the DNS names, PKCS #1).
 */
import assert from 'node:assert/strict';
import { chmodSync, cpSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, it } from 'node:test';
import { Cluster } from '../support/cluster.js';
import { OpensslCa, openssl } from '../support/openssl.js';

const CLUSTER = '0123456789abcdef'.repeat(2);
const DEADLINE_MS = 20_000;
const IDS = ['subjectKeyIdentifier=hash', 'authorityKeyIdentifier=keyid'];
const BOTH_ENDS = 'extendedKeyUsage=serverAuth,clientAuth';

interface Shape {
  readonly key: 'p256' | 'rsa';
  readonly root: readonly string[];
  readonly intermediate: readonly string[];
  readonly leaf: readonly string[];
  /** Form in which the key is written: SEC 1 or PKCS #1, not PKCS #8. */
  readonly keyForm: readonly string[];
}

const SHAPES: Readonly<Record<string, Shape>> = {
  'step-ca': {
    key: 'p256',
    root: ['basicConstraints=critical,CA:TRUE,pathlen:1', 'keyUsage=critical,keyCertSign,cRLSign'],
    intermediate: ['basicConstraints=critical,CA:TRUE,pathlen:0', 'keyUsage=critical,keyCertSign,cRLSign', ...IDS],
    leaf: [
      'keyUsage=critical,digitalSignature',
      BOTH_ENDS,
      ...IDS,
      // Which provisioner: kind, name, credential.
      '1.3.6.1.4.1.37476.9000.64.1=ASN1:SEQUENCE:provisioner',
    ],
    keyForm: ['ec'],
  },
  Vault: {
    key: 'rsa',
    root: ['basicConstraints=critical,CA:TRUE', 'keyUsage=critical,keyCertSign,cRLSign'],
    intermediate: ['basicConstraints=critical,CA:TRUE', 'keyUsage=critical,keyCertSign,cRLSign', ...IDS],
    leaf: ['keyUsage=critical,digitalSignature,keyEncipherment,keyAgreement', BOTH_ENDS, ...IDS],
    keyForm: ['rsa', '-traditional'],
  },
};
const PROVISIONER = ['[provisioner]', 'kind=INTEGER:1', 'name=OCTETSTRING:admin', 'credential=OCTETSTRING:id'];

for (const [tool, shape] of Object.entries(SHAPES)) {
  describe(`a cluster on certificates as ${tool} issues them`, () => {
    it('links, replicates, and locks out what a list of the intermediate names', async () => {
      const cluster = await Cluster.create();
      try {
        const folder = join(cluster.folder, 'theirs');
        mkdirSync(folder);
        const days = ['-days', '3', '-nodes', '-subj', '/CN=their root'];
        const kind = shape.key === 'p256' ? ['ec', '-pkeyopt', 'ec_paramgen_curve:P-256'] : ['rsa:2048'];
        const own = shape.root.flatMap((extension) => ['-addext', extension]);
        const made = ['-keyout', 'root.key', '-out', 'root.crt'];
        openssl(['req', '-x509', '-newkey', ...kind, ...made, ...days, ...own], folder);
        const at = (name: string): string => join(folder, name);
        const root = OpensslCa.of(at('root'), { certificate: at('root.crt'), key: at('root.key') });
        const ca = OpensslCa.of(at('online'), root.issue('intermediate', shape.intermediate, shape.key));
        const above = readFileSync(ca.certificate, 'utf8');
        const nodes = [await cluster.add({ name: 'root', role: 'root' })];
        nodes.push(await cluster.add({ name: 'edge', role: 'edge', upstreams: nodes }));
        for (const { name, role, folder: to } of nodes) {
          const dns = tool === 'Vault' ? `DNS:${name},` : '';
          const names = `subjectAltName=${dns}URI:tokaido://${CLUSTER}/${role}/${name}`;
          const leaf = ca.issue(name, [names, ...shape.leaf, ...PROVISIONER], shape.key);
          writeFileSync(join(to, 'node.crt'), `${readFileSync(leaf.certificate, 'utf8')}${above}`);
          const [form = '', ...more] = shape.keyForm;
          openssl([form, ...more, '-in', leaf.key, '-out', join(to, 'node.key')], folder);
          assert.match(readFileSync(join(to, 'node.key'), 'utf8'), /BEGIN (EC|RSA) PRIVATE KEY/);
          chmodSync(join(to, 'node.key'), 0o600);
          cpSync(root.certificate, join(to, 'ca.crt'));
        }
        for (const node of nodes) cluster.start(node);
        for (const node of nodes) await cluster.ready(node);
        const [top, edge] = nodes as [(typeof nodes)[0], (typeof nodes)[0]];
        await fetch(`http://127.0.0.1:${top.clientPort}/k`, { method: 'PUT', body: 'v' });
        const until = async (what: string, is: () => Promise<boolean>): Promise<void> => {
          const start = performance.now();
          while (!(await is())) {
            if (performance.now() - start > DEADLINE_MS) throw new Error(`${what}\n${cluster.log(top).slice(-2000)}`);
            await new Promise((resolve) => setTimeout(resolve, 20));
          }
        };
        await until('it arrives', async () => (await fetch(`http://127.0.0.1:${edge.clientPort}/k`)).ok);
        ca.revoke(join(ca.folder, 'edge.crt'));
        // Behind the list the intermediate, so that everybody sees who signed it.
        const body = `${ca.crl()}${above}`;
        const reply = await fetch(`http://127.0.0.1:${top.adminPort}/crl`, { method: 'POST', body });
        assert.equal(reply.status, 200, await reply.text());
        await until('it is locked out', async () => (await cluster.status(top)).followers.length === 0);
      } finally {
        await cluster.close();
      }
    });
  });
}
