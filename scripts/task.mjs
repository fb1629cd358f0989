#!/usr/bin/env node
/**
 * One command each: installs what is missing, builds what changed, runs the task. Plain JavaScript without dependencies,
 * because it runs before there are any. Everything it says goes to standard error: standard output is the task's own.
 *
 *   node scripts/task.mjs build|check|reference|test|conformance|demo|bench|torture [-- arguments]
 */
import { spawn } from 'node:child_process';
import { existsSync, mkdirSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

const root = dirname(dirname(fileURLToPath(import.meta.url)));
const [task = '', ...rest] = process.argv.slice(2);
const args = rest[0] === '--' ? rest.slice(1) : rest;
const say = (text) => process.stderr.write(`${text}\n`);

/** Runs a command; resolves with its exit code. Ctrl-C reaches it through the terminal, SIGTERM through us. */
function run(command, parameters, options = {}) {
  return new Promise((resolve, reject) => {
    const child = spawn(command, parameters, { cwd: root, stdio: 'inherit', ...options });
    const forward = (signal) => child.kill(signal);
    const wait = () => undefined;
    process.on('SIGTERM', forward);
    process.on('SIGINT', wait);
    child.on('error', reject);
    child.on('exit', (code, signal) => {
      process.off('SIGTERM', forward);
      process.off('SIGINT', wait);
      resolve(signal === null ? code : 1);
    });
  });
}

async function must(command, parameters, options) {
  const code = await run(command, parameters, options);
  if (code !== 0) process.exit(code || 1);
}

const bin = (name) => join(root, 'node_modules', '.bin', process.platform === 'win32' ? `${name}.cmd` : name);
const modified = (path) => (existsSync(path) ? statSync(path).mtimeMs : 0);

const isRunning = (pid) => {
  try {
    process.kill(pid, 0);
    return true;
  } catch (error) {
    return error.code === 'EPERM';
  }
};

/** Two commands at the same time, in two terminals: the second one waits until the first has installed and built. */
async function alone(work) {
  const lock = join(root, '.task-lock');
  for (let waited = false; ; waited = true) {
    try {
      writeFileSync(lock, String(process.pid), { flag: 'wx' });
      break;
    } catch (error) {
      if (error.code !== 'EEXIST') throw error;
    }
    const holder = existsSync(lock) ? Number(readFileSync(lock, 'utf8')) : 0;
    if (holder > 0 && !isRunning(holder)) rmSync(lock, { force: true });
    else if (!waited) say(`process ${holder} installs or builds: waiting for it (if it does not, remove ${lock}) ...`);
    await new Promise((resolve) => setTimeout(resolve, 100));
  }
  const release = () => rmSync(lock, { force: true });
  process.once('exit', release);
  await work();
  process.off('exit', release);
  release();
}

/** Installs when there is nothing, or when the lock file is newer than what was installed from it. */
async function install() {
  const installed = join(root, 'node_modules', '.package-lock.json');
  if (modified(installed) >= modified(join(root, 'package-lock.json'))) return;
  say('installing dependencies ...');
  // Not `npm ci`: it refuses a lock file without the platforms that the registry it was made with did not offer.
  await must('npm', ['install', '--no-save', '--no-audit', '--no-fund', '--loglevel=error'], {
    stdio: ['ignore', 2, 2],
    shell: process.platform === 'win32',
  });
}

function* sources(folder) {
  for (const entry of readdirSync(join(root, folder), { withFileTypes: true, recursive: true })) {
    if (entry.isFile() && entry.name.endsWith('.ts')) yield join(entry.parentPath ?? entry.path, entry.name);
  }
}

/** Compiles when a source is newer than the last build; outputs of deleted sources go. */
async function build() {
  const files = ['src', 'test', 'bench', 'demo'].flatMap((folder) =>
    existsSync(join(root, folder)) ? [...sources(folder)] : [],
  );
  const list = files.sort().join('\n');
  const stamp = join(root, 'dist', '.built');
  const previous = existsSync(stamp) ? readFileSync(stamp, 'utf8') : '';
  const newest = Math.max(
    ...files.map(modified),
    modified(join(root, 'tsconfig.json')),
    modified(join(root, 'scripts', 'bundle.mjs')),
  );
  if (previous === list && modified(stamp) > newest) return;
  if (previous !== list) rmSync(join(root, 'dist'), { recursive: true, force: true });
  say('building ...');
  await must(bin('tsc'), ['-p', '.'], { stdio: ['ignore', 2, 2] });
  await must(process.execPath, [join(root, 'scripts', 'bundle.mjs')], { stdio: ['ignore', 2, 2] });
  mkdirSync(join(root, 'dist'), { recursive: true });
  writeFileSync(stamp, list);
}

async function check() {
  say('checking lint and format ...');
  await must(bin('biome'), ['check', '--error-on-warnings', '.'], { stdio: ['ignore', 2, 2] });
}

/** Test files, those that match `--only REGEX` when it is given. */
function tests() {
  const at = args.indexOf('--only');
  return testsThatMatch(new RegExp(at < 0 ? '' : (args[at + 1] ?? '')));
}

function testsThatMatch(only) {
  const folder = join(root, 'dist', 'test');
  return readdirSync(folder, { withFileTypes: true, recursive: true })
    .filter((entry) => entry.isFile() && entry.name.endsWith('.test.js'))
    .map((entry) => join(entry.parentPath ?? entry.path, entry.name))
    .filter((path) => only.test(path))
    .sort();
}

const node = (parameters) => run(process.execPath, ['--enable-source-maps', ...parameters]);
const tasks = {
  build: async () => 0,
  check: async () => {
    await check();
    const folder = join(root, 'dist', 'test', 'tidy');
    const files = readdirSync(folder).filter((name) => name.endsWith('.test.js'));
    return await node(['--test', ...files.map((name) => join(folder, name))]);
  },
  reference: async () => await node([join(root, 'scripts', 'reference.mjs'), ...args]),
  test: async () => {
    await check();
    // Tests of real processes wait a fifth of their time: three files at once keep two cores busy.
    return await node(['--test', '--test-concurrency=3', '--test-reporter=spec', ...tests()]);
  },
  conformance: async () => await node(['--test', '--test-reporter=spec', ...testsThatMatch(/[\\/]conformance[\\/]/)]),
  demo: async () => await node([join(root, 'dist', 'demo', 'main.js'), ...args]),
  bench: async () => await node([join(root, 'dist', 'bench', 'run.js'), ...args]),
  torture: async () => await node([join(root, 'dist', 'test', 'torture', 'run.js'), ...args]),
};

if (!Object.hasOwn(tasks, task)) {
  say(`usage: node scripts/task.mjs ${Object.keys(tasks).join('|')} [-- arguments]`);
  process.exit(2);
}
await alone(async () => {
  await install();
  await build();
});
process.exit(await tasks[task]());
