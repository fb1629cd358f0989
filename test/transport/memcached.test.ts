/** What memcached's clients are answered, over real connections: every command, its conditions, and how it ends. */
import assert from 'node:assert/strict';
import { afterEach, beforeEach, describe, it } from 'node:test';
import { TokaidoError } from '../../src/base/errors.js';
import { Commands } from '../../src/commands/commands.js';
import { eventually } from '../support/local-runtime.js';
import { MemcachedBench, type MemcachedClient } from '../support/memcached-bench.js';

describe('a memcached listener', () => {
  let bench: MemcachedBench;
  let client: MemcachedClient;

  beforeEach(async () => {
    bench = new MemcachedBench([':', 'casket.kct']);
    await bench.listen({ flags: true });
    client = await bench.connect();
  });
  afterEach(async () => await bench.close());

  const ask = async (text: string): Promise<string> => await client.ask(text);
  /** The unique id of a key. */
  const unique = async (key: string): Promise<string> => {
    const [, id = ''] = /^VALUE \S+ \d+ \d+ (\d+)\r\n/.exec(await ask(`gets ${key}\r\n`)) ?? [];
    assert.notEqual(id, '');
    return id;
  };

  describe('old commands', () => {
    it('keep flags and values, and answer in order', async () => {
      assert.equal(
        await ask('set a 4294967295 0 3\r\n\r\n\0\r\nget b a\r\n'),
        'STORED\r\nVALUE a 4294967295 3\r\n\r\n\0\r\nEND\r\n',
      );
    });

    it('cas stores only over the record it has seen', async () => {
      assert.equal(await ask('cas a 0 0 1 1\r\nx\r\n'), 'NOT_FOUND\r\n');
      await ask('set a 1 0 1\r\n1\r\n');
      const seen = await unique('a');
      assert.equal(await ask(`cas a 2 0 1 ${seen}\r\n2\r\ncas a 3 0 1 ${seen}\r\n3\r\n`), 'STORED\r\nEXISTS\r\n');
      assert.equal(await ask('get a\r\n'), 'VALUE a 2 1\r\n2\r\nEND\r\n');
    });

    it('append and prepend keep flags and expiration time', async () => {
      assert.equal(await ask('append a 0 0 1\r\nx\r\nprepend a 0 0 1\r\nx\r\n'), 'NOT_STORED\r\nNOT_STORED\r\n');
      await ask('set a 7 10 1\r\nb\r\n');
      assert.equal(
        await ask('append a 1 0 1\r\nc\r\nprepend a 1 99 1\r\na\r\nmg a t f v\r\n'),
        'STORED\r\nSTORED\r\nVA 3 t10 f7\r\nabc\r\n',
      );
    });

    it('incr wraps at 64 bit, decr ends at 0, and both keep flags and expiration time', async () => {
      await ask('set n 9 10 20\r\n18446744073709551615\r\n');
      assert.equal(
        await ask('incr n 2\r\ndecr n 5\r\nincr n 41\r\nmg n t f v\r\n'),
        '1\r\n0\r\n41\r\nVA 2 t10 f9\r\n41\r\n',
      );
      await ask('set n 0 0 2\r\nx1\r\n');
      assert.equal(await ask('incr n 1\r\n'), 'CLIENT_ERROR cannot increment or decrement non-numeric value\r\n');
      assert.equal(await ask('incr none 1\r\n'), 'NOT_FOUND\r\n');
    });

    it('touch and gat change the expiration time, and nothing else', async () => {
      assert.equal(await ask('touch a 5\r\ngat 5 a b\r\n'), 'NOT_FOUND\r\nEND\r\n');
      await ask('set a 3 0 1\r\nx\r\nset b 4 0 1\r\ny\r\n');
      assert.equal(await ask('touch a 5\r\nmg a t f v\r\n'), 'TOUCHED\r\nVA 1 t5 f3\r\nx\r\n');
      assert.equal(
        await ask('gat 20 a c b\r\nmg a t\r\n'),
        'VALUE a 3 1\r\nx\r\nVALUE b 4 1\r\ny\r\nEND\r\nHD t20\r\n',
      );
      const [, id] = /VALUE a 3 1 (\d+)/.exec(await ask('gats 30 a\r\n')) ?? [];
      assert.equal(id, await unique('a'), 'the id is the one that a cas will find');
    });

    it('records expire: after their seconds, at their time, at once', async () => {
      await ask('set a 0 10 1\r\nx\r\nset b 0 1700000020 1\r\nx\r\nset c 0 -1 1\r\nx\r\n');
      assert.equal(await ask('get a b c\r\n'), 'VALUE a 0 1\r\nx\r\nVALUE b 0 1\r\nx\r\nEND\r\n');
      bench.server.bench.clock.ms += 10_000;
      assert.equal(await ask('get a b\r\n'), 'VALUE b 0 1\r\nx\r\nEND\r\n');
      bench.server.bench.clock.ms += 10_000;
      assert.equal(await ask('get a b\r\nadd a 0 0 1\r\ny\r\n'), 'END\r\nSTORED\r\n');
    });

    it('flush_all empties the database, now or later', async () => {
      await ask('set a 0 0 1\r\nx\r\n');
      assert.equal(await ask('flush_all\r\nget a\r\n'), 'OK\r\nEND\r\n');
      await ask('set a 0 0 1\r\nx\r\n');
      assert.equal(await ask('flush_all 1\r\nget a\r\n'), 'OK\r\nVALUE a 0 1\r\nx\r\nEND\r\n');
      const { commands } = bench.server;
      await eventually('the database is empty', () => commands.count(commands.database(0)) === 0);
      assert.equal(await ask('flush_all 2592000\r\n'), 'CLIENT_ERROR invalid exptime argument\r\n');
    });

    it('say nothing with noreply, whatever comes of them', async () => {
      const quiet = [
        'set a 0 0 1 noreply\r\n1\r\n',
        'add a 0 0 1 noreply\r\n2\r\n',
        'replace b 0 0 1 noreply\r\n2\r\n',
        'append a 0 0 1 noreply\r\n0\r\n',
        'cas a 0 0 1 1 noreply\r\n9\r\n',
        'incr a 5 noreply\r\n',
        'touch a 100 noreply\r\n',
        'delete b noreply\r\n',
        'verbosity 1 noreply\r\n',
        `append a 0 0 ${2 ** 20 - 4} noreply\r\n${'x'.repeat(2 ** 20 - 4)}\r\n`,
      ];
      assert.equal(await ask(`${quiet.join('')}get a\r\n`), 'VALUE a 0 2\r\n15\r\nEND\r\n');
      assert.equal(await ask('flush_all noreply\r\nget a\r\n'), 'END\r\n');
    });

    it('version begins with the version of memcached whose protocol is spoken', async () => {
      assert.match(await ask('version\r\n'), /^VERSION 1\.6\.\d+ Tokaido\/\d+\.\d+\.\d+\r\n$/);
    });

    it('quit ends the connection after the answers before it', async () => {
      client.send('set a 0 0 1\r\nx\r\nget a\r\nquit\r\nget a\r\n');
      assert.equal(await client.rest(), 'STORED\r\nVALUE a 0 1\r\nx\r\nEND\r\n');
    });

    it('stats count what was asked, and begin anew when told', async () => {
      await ask('set a 0 0 1\r\nx\r\nget a b\r\ndelete a\r\ndelete a\r\nincr a 1\r\n');
      const text = await ask('stats\r\n');
      for (const line of [
        'cmd_get 2',
        'get_hits 1',
        'get_misses 1',
        'delete_hits 1',
        'delete_misses 1',
        'incr_misses 1',
      ]) {
        assert.ok(text.includes(`STAT ${line}\r\n`), line);
      }
      assert.equal(await ask('stats reset\r\n'), 'RESET\r\n');
      assert.match(await ask('stats\r\n'), /STAT cmd_get 0\r\n/);
      assert.match(await ask('stats settings\r\n'), /STAT item_size_max 1048576\r\n/);
      assert.equal(await ask('stats slabs\r\nstats frob\r\n'), 'END\r\nERROR\r\n');
    });
  });

  describe('meta commands', () => {
    it('mg returns what its flags ask for, in their order', async () => {
      await ask('set k 5 90 3\r\nabc\r\n');
      assert.equal(
        await ask('mg k\r\nmg k v\r\nmg k s t f k Oq v\r\n'),
        'HD\r\nVA 3\r\nabc\r\nVA 3 s3 t90 f5 kk Oq\r\nabc\r\n',
      );
      assert.equal(await ask('mg none v k Oq\r\nmg none v q\r\n'), 'EN kk Oq\r\n'.replace('kk', 'knone'));
      assert.equal(
        await ask('ms Zm9v 1 b\r\nx\r\nget foo\r\nmg Zm9v k b v\r\n'),
        'HD\r\nVALUE foo 0 1\r\nx\r\nEND\r\nVA 1 kZm9v b\r\nx\r\n',
      );
    });

    it('mg leaves out a value that the client has already, and touches', async () => {
      await ask('set k 0 0 1\r\nx\r\n');
      const id = await unique('k');
      assert.equal(await ask(`mg k v C${id}\r\nmg k v C1 T30 t\r\n`), 'HD\r\nVA 1 t30\r\nx\r\n');
    });

    it('ms stores under every mode and condition', async () => {
      assert.equal(await ask('ms k 1 MR\r\na\r\nms k 1 MA\r\na\r\nms k 1 C5\r\na\r\n'), 'NS\r\nNS\r\nNF\r\n');
      assert.equal(
        await ask('ms k 1 ME F7 T60\r\na\r\nms k 1 ME\r\na\r\nmg k v f t\r\n'),
        'HD\r\nNS\r\nVA 1 f7 t60\r\na\r\n',
      );
      assert.equal(
        await ask('ms k 1 MA s\r\nb\r\nms k 1 MP Ox\r\nc\r\nms k 1 MR q\r\nz\r\nmg k v\r\n'),
        'HD s2\r\nHD Ox\r\nVA 1\r\nz\r\n',
      );
      assert.equal(await ask('ms n 1 MA N30\r\nv\r\nmg n v t\r\n'), 'HD\r\nVA 1 t30\r\nv\r\n');
      const [, id] = /^HD c(\d+)/.exec(await ask('ms k 1 c\r\n1\r\n')) ?? [];
      assert.equal(id, await unique('k'));
      assert.equal(await ask(`ms k 1 C1 c\r\n2\r\nms k 1 C${id}\r\n3\r\nmg k v\r\n`), 'EX c0\r\nHD\r\nVA 1\r\n3\r\n');
    });

    it('md removes, empties, and under a condition', async () => {
      assert.equal(
        await ask('md k\r\nmd k q\r\nset k 5 0 1\r\nx\r\nmd k C1 q\r\nmd k x\r\nmg k f v\r\n'),
        'NF\r\nNF\r\nSTORED\r\nEX\r\nHD\r\nVA 0 f0\r\n\r\n',
      );
      assert.equal(await ask(`md k C${await unique('k')} k Oz\r\nmg k\r\n`), 'HD kk Oz\r\nEN\r\n');
    });

    it('ma counts, and makes what is missing', async () => {
      assert.equal(
        await ask('ma n\r\nma n q\r\nma n N0 J13 v\r\nma n v\r\nma n D30 v\r\nma n MD D22 v\r\n'),
        'NF\r\nNF\r\nVA 2\r\n13\r\nVA 2\r\n14\r\nVA 2\r\n44\r\nVA 2\r\n22\r\n',
      );
      assert.equal(
        await ask('ma n M- D99 T50 v t\r\nma n C1 v\r\nma n q\r\nmg n v\r\n'),
        'VA 1 t50\r\n0\r\nEX\r\nVA 1\r\n1\r\n',
      );
      assert.equal(
        await ask('set n 0 0 1\r\nx\r\nma n q\r\n'),
        'STORED\r\nCLIENT_ERROR cannot increment or decrement non-numeric value\r\n',
      );
    });

    it('me tells what is known of a record', async () => {
      await ask('set k 0 60 2\r\nxx\r\n');
      assert.equal(await ask('me k\r\nme none\r\n'), `ME k exp=60 cas=${await unique('k')} size=3\r\nEN\r\n`);
    });

    it('a miss makes an empty record for the first that asks; the others wait for it', async () => {
      assert.equal(await ask('mg k N30 v t\r\nmg k N30 v t\r\n'), 'VA 0 t30 W\r\n\r\nVA 0 t30 Z\r\n\r\n');
      const id = await unique('k');
      assert.equal(await ask(`ms k 3 C${id} T120\r\nnew\r\nmg k N30 v\r\n`), 'HD\r\nVA 3\r\nnew\r\n');
      assert.equal(
        await ask('mg k R130 v\r\nmg k R130 v\r\nmg k R60\r\n'),
        'VA 3 W\r\nnew\r\nVA 3 Z\r\nnew\r\nHD Z\r\n',
      );
    });

    it('a stale record is served, and made anew by the first that sees it', async () => {
      await ask('set k 0 0 3\r\nold\r\n');
      assert.equal(
        await ask('md k I T30\r\nmg k v t\r\nmg k v\r\n'),
        'HD\r\nVA 3 t30 X W\r\nold\r\nVA 3 Z X\r\nold\r\n',
      );
      assert.equal(await ask('ms k 1 I C1\r\nf\r\nmg k v\r\nms k 1 C0\r\nf\r\n'), 'HD\r\nVA 1 Z X\r\nf\r\nEX\r\n');
      assert.equal(await ask(`ms k 1 C${await unique('k')}\r\ng\r\nmg k v\r\n`), 'HD\r\nVA 1\r\ng\r\n');
    });
  });

  describe('values', () => {
    it('lie in the store as the plug-in lays them: flags behind the value, or nowhere', async () => {
      await bench.listen({ flags: false });
      const plain = await bench.connect(1);
      await ask('set k 258 0 1\r\nx\r\n');
      assert.equal(await plain.ask('get k\r\n'), 'VALUE k 0 5\r\nx\0\0\x01\x02\r\nEND\r\n');
      await plain.ask('set k 258 0 3\r\nabc\r\n');
      assert.equal(await ask('get k\r\n'), 'VALUE k 0 3\r\nabc\r\nEND\r\n', 'too short to have flags');
      const { commands } = bench.server;
      assert.equal(commands.get({ database: commands.database(0), key: Buffer.from('k') })?.value.toString(), 'abc');
    });

    it('are as large as the limit, and no larger', async () => {
      const largest = 2 ** 20 - 4;
      assert.equal(await ask(`set k 0 0 ${largest}\r\n${'x'.repeat(largest)}\r\n`), 'STORED\r\n');
      assert.equal(
        await ask(`set k 0 0 ${largest + 1}\r\n${'x'.repeat(largest + 1)}\r\n`),
        'SERVER_ERROR object too large for cache\r\n',
      );
      assert.match(await ask('append k 0 0 1\r\nx\r\n'), /^SERVER_ERROR a value of 1048577 bytes exceeds the limit/);
    });

    it('belong to the database that the listener names', async () => {
      await bench.listen({ database: 'casket.kct' });
      const other = await bench.connect(1);
      await other.ask('set k 0 0 1\r\nx\r\n');
      assert.equal(await ask('get k\r\n'), 'END\r\n');
      const { commands } = bench.server;
      assert.equal(
        commands.get({ database: commands.database('casket.kct'), key: Buffer.from('k') })?.value.toString(),
        'x',
      );
    });
  });

  it('refuses every change when it is read-only, and goes on reading', async () => {
    await bench.listen({ readOnly: true, flags: true });
    const reader = await bench.connect(1);
    await ask('set k 0 0 1\r\nx\r\n');
    const changes = [
      'set k 0 0 1\r\ny\r\n',
      'delete k\r\n',
      'incr k 1\r\n',
      'touch k 1\r\n',
      'flush_all\r\n',
      'gat 1 k\r\n',
      'ms k 1\r\ny\r\n',
      'mg k T1\r\n',
      'md k\r\n',
      'ma k\r\n',
    ];
    assert.equal(await reader.ask(changes.join('')), 'SERVER_ERROR server is read-only\r\n'.repeat(changes.length));
    assert.equal(await reader.ask('get k\r\nmg k v\r\n'), 'VALUE k 0 1\r\nx\r\nEND\r\nVA 1\r\nx\r\n');
  });

  it('answers a pipeline of many connections in order, each its own', async () => {
    const clients = await Promise.all(Array.from({ length: 8 }, async () => await bench.connect()));
    await Promise.all(
      clients.map(async (each, number) => {
        const rounds = Array.from({ length: 500 }, (_, i) => `set ${number} 0 0 3\r\n${100 + i}\r\nget ${number}\r\n`);
        const answers = rounds.map((_, i) => `STORED\r\nVALUE ${number} 0 3\r\n${100 + i}\r\nEND\r\n`);
        assert.equal(await each.ask(rounds.join('')), answers.join(''));
      }),
    );
  });

  it('incr of many connections at once loses none', async () => {
    await ask('set n 0 0 1\r\n0\r\n');
    const clients = await Promise.all(Array.from({ length: 8 }, async () => await bench.connect()));
    await Promise.all(clients.map(async (each) => await each.ask('incr n 1\r\n'.repeat(200))));
    assert.equal(await ask('get n\r\n'), 'VALUE n 0 4\r\n1600\r\nEND\r\n');
  });

  it('does not read on for a client that does not take its answers', async () => {
    const value = 'x'.repeat(500_000);
    await ask(`set k 0 0 ${value.length}\r\n${value}\r\n`);
    client.socket.pause();
    const asked = 200;
    client.send('get k\r\n'.repeat(asked));
    const { counts } = bench.server.commands;
    await new Promise((resolve) => setTimeout(resolve, 300));
    assert.ok(counts.get < 60, `${counts.get} values were read for a client that takes none`);
    client.socket.resume();
    const answer = `VALUE k 0 ${value.length}\r\n${value}\r\nEND\r\n`;
    await client.read(answer.length * asked);
    assert.equal(counts.get, asked);
  });

  it('reads past a value that is too large without keeping it', async () => {
    const before = process.memoryUsage().arrayBuffers;
    client.send(`set k 0 0 ${60 * 2 ** 20}\r\n`);
    assert.equal(await client.read(41), 'SERVER_ERROR object too large for cache\r\n');
    const piece = 'x'.repeat(2 ** 20);
    for (let sent = 0; sent < 60; sent++) {
      client.send(piece);
      await new Promise((resolve) => setTimeout(resolve, 1));
    }
    assert.equal(await ask('\r\nget k\r\n'), 'END\r\n');
    assert.ok(process.memoryUsage().arrayBuffers - before < 60 * 2 ** 20);
  });

  it('says that it does not speak the binary protocol, and ends', async () => {
    client.send(`\x80\x0b${'\0'.repeat(22)}`);
    assert.match(await client.rest(), /^CLIENT_ERROR this port speaks the text protocol/);
  });

  it('names the root where a write reaches a follower', async () => {
    const refusal = new TokaidoError('READ_ONLY', 'this node follows others and takes no writes: write to the root r1');
    const { store, commands: own } = bench.server;
    const follower = new Commands({
      store: () => store,
      writeGate: () => refusal,
      limits: own.limits,
      durability: 'committed',
    });
    Object.assign(bench.server, { commands: follower });
    await bench.listen();
    const reader = await bench.connect(1);
    await ask('set k 0 0 1\r\nx\r\n');
    const line = 'SERVER_ERROR this node follows others and takes no writes: write to the root r1\r\n';
    const asked =
      'set k 0 0 1\r\ny\r\nincr k 1\r\ndelete k\r\nflush_all\r\nflush_all 10\r\nms k 1\r\ny\r\nmg none N5\r\n';
    assert.equal(await reader.ask(asked), line.repeat(7));
    assert.equal(
      await reader.ask('get k\r\nmg k N5 v\r\n'),
      'VALUE k 0 5\r\nx\0\0\0\0\r\nEND\r\nVA 5\r\nx\0\0\0\0\r\n',
    );
  });
});
