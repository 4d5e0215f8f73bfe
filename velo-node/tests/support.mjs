// What the tests have in common. They run from a folder into which the packed packages were installed, never from the
// sources.
//
// `VELO_TEST_BTRFS` names the folder that they work in (any other works too), `VELO_TEST_PG` the PostgreSQLs
// (`15=/…/bin 18=/…/bin`), of which the newest is taken, `VELO_TEST_CHECKOUT` the sources, which some tests read.

import { spawn } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { existsSync, readFileSync, readdirSync, readlinkSync, rmSync } from 'node:fs';
import { createRequire } from 'node:module';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import pg from 'pg';
import { Project } from 'velo-node';

/** What has to happen by itself has done so by then, however busy the machine is; and no test waits for this long. */
export const SOON = 30_000;
export const LONG = process.env.VELO_TEST_LONG === '1';
export const HERE = path.dirname(fileURLToPath(import.meta.url));
export const require = createRequire(import.meta.url);

/** A home of this file's own, in the environment of all that it starts. */
export const home = path.join(process.env.VELO_TEST_BTRFS ?? tmpdir(), `velo-node-${randomBytes(4).toString('hex')}`);
process.env.VELO_HOME = home;
const newest = (process.env.VELO_TEST_PG ?? '')
  .split(' ')
  .map((pair) => pair.split('='))
  .sort(([one], [other]) => Number(one) - Number(other))
  .at(-1)[1];
if (newest) process.env.VELO_PG_BIN = newest;
// What these tests run is a run of its own.
delete process.env.NODE_TEST_CONTEXT;

/** A project whose `main` is stopped, so that what lives in the home was left there by a test. */
export const project = (name = 'api') => Project.create(name, { mainStopped: true });

/** Nothing lives in the home, or soon. */
export async function gone() {
  if (!(await within(SOON, () => living().length === 0))) throw new Error(`left behind: ${living()}`);
}

/** Of a project's branches these alone stay, or soon: who has just ended may still be undoing others. */
export async function left(project, ...names) {
  let shown;
  const agree = async () => {
    shown = (await project.branches()).map((branch) => branch.shown);
    return shown.join() === names.join();
  };
  if (!(await within(SOON, agree))) throw new Error(`left behind: ${shown}`);
}

/** Nothing of the home stays. */
export async function end() {
  for (const { name } of await Project.list()) await (await Project.open(name)).delete({ force: true });
  await gone();
  rmSync(home, { recursive: true, force: true });
}

/** The servers and keepers that live in the home. */
export function living() {
  const found = [];
  for (const pid of readdirSync('/proc').filter((name) => /^\d+$/.test(name))) {
    try {
      if (readlinkSync(`/proc/${pid}/cwd`).startsWith(`${home}/`)) {
        found.push(`server ${pid} ${readFileSync(`/proc/${pid}/cmdline`, 'utf8').slice(0, 60)}`);
      }
    } catch {
      // It has ended, or is somebody else's.
    }
  }
  let keepers = [];
  try {
    keepers = readdirSync(path.join(home, 'keepers'));
  } catch {
    // There was none yet.
  }
  for (const keeper of keepers) {
    if (existsSync(path.join(home, 'keepers', keeper, 's'))) found.push(`keeper ${keeper}`);
  }
  return found;
}

export const lives = (pid) => {
  try {
    process.kill(pid, 0);
    return !/^State:\tZ/m.test(readFileSync(`/proc/${pid}/status`, 'utf8'));
  } catch {
    return false;
  }
};

/** Whether it happens within that time. */
export async function within(milliseconds, happens) {
  const end = performance.now() + milliseconds;
  while (!(await happens())) {
    if (performance.now() > end) return false;
    await sleep(20);
  }
  return true;
}

/** A program that runs, with what it says: `lines` waits for one of standard output, `ended` for its end. */
export function start(command, args, options = {}) {
  const child = spawn(command, args, { stdio: ['ignore', 'pipe', 'pipe'], ...options });
  const said = { child, out: '', err: '' };
  child.stdout.setEncoding('utf8').on('data', (text) => (said.out += text));
  child.stderr.setEncoding('utf8').on('data', (text) => (said.err += text));
  said.ended = new Promise((resolve, reject) => {
    child.once('error', reject);
    child.once('close', (code, signal) => resolve({ code, signal, out: said.out, err: said.err }));
  });
  said.until = async (pattern) => {
    const happened = await within(4 * SOON, () => pattern.test(said.out) || child.exitCode !== null);
    if (!happened || !pattern.test(said.out)) throw new Error(`no ${pattern}: ${said.out}${said.err}`);
    return pattern.exec(said.out);
  };
  return said;
}

/** Runs a program to its end; after five minutes it is killed. */
export async function run(command, args, options = {}) {
  return start(command, args, { timeout: 300_000, killSignal: 'SIGKILL', ...options }).ended;
}

/** A script of Node's, as its own process. */
export const script = (text, options = {}) =>
  start(process.execPath, ['--input-type=module', '-e', text], { cwd: HERE, ...options });

/** What a statement gives. */
export async function query(url, text, values) {
  const db = new pg.Client(url);
  await db.connect();
  try {
    return (await db.query(text, values)).rows;
  } finally {
    await db.end();
  }
}

export const write = async (branch) => {
  await query(branch.url, 'CREATE TABLE IF NOT EXISTS t (n int)');
  await query(branch.url, 'INSERT INTO t VALUES (1)');
};
export const count = async (branch) => (await query(branch.url, 'SELECT count(*)::int AS n FROM t'))[0].n;
