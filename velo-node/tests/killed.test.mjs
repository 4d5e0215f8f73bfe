// What is left of processes that are killed while a test of theirs has branches: with the hooks for node:test, and with
// Jest's plain ones.

import assert from 'node:assert/strict';
import { existsSync, readFileSync, readdirSync } from 'node:fs';
import path from 'node:path';
import { after, test } from 'node:test';
import { JEST, jest, passed } from './jest.mjs';
import { SOON, end, gone, home, left, lives, living, run, script, start, within } from './support.mjs';
import { BODY, projectOf, suite } from './suites.mjs';

after(end);

/** What a test does that has branches: notes them and its process, waits until it may go on, and asks for one more. */
const HOLD = `
const { appendFileSync, existsSync } = require('node:fs');
const path = require('node:path');
const { setTimeout: sleep } = require('node:timers/promises');

module.exports = async (name, branches, ask) => {
  const note = (what) => appendFileSync(path.join(__dirname, name + '.noted'), JSON.stringify(what) + '\\n');
  const servers = [];
  for (const branch of branches) servers.push((await branch.info()).pid);
  note({ pid: process.pid, servers });
  const begun = performance.now();
  while (!existsSync(path.join(__dirname, 'go'))) {
    if (performance.now() - begun > 240_000) throw new Error('nobody has it go on');
    await sleep(20);
  }
  await ask().then(() => note({ told: 'a branch' }), ({ kind, message }) => note({ told: kind, message }));
};
`;

/** A file of node:test that holds a branch of a hook and one of a test. */
const ofNode = (name) => `
const { before, test } = require('node:test');
const velo = require('velo-node/node-test');
const hold = require('./hold.js');
let shared;
before(async () => { shared = await velo.branch(); });
test('holds', async (t) => hold('${name}', [shared, await velo.branch(t)], () => velo.branch(t)));
`;

/** One whose process is of a run, and has asked for nothing. */
const late = (name) => `
const { test } = require('node:test');
const velo = require('velo-node/node-test');
const hold = require('./hold.js');
test('holds nothing', async (t) => {
  await velo.seed();
  await hold('${name}', [], () => velo.branch(t));
});
`;

/** The same with Jest's plain hooks. */
const ofJest = (name) => `
const velo = require('velo-node/jest');
const hold = require('./hold.js');
let shared;
let branch;
beforeAll(async () => { shared = await velo.branch(); }, 120_000);
beforeEach(async () => { branch = await velo.branch(); }, 120_000);
test('holds', () => hold('${name}', [shared, branch], () => velo.branch()), 300_000);
`;

/** What comes after, in the same project: no lock of the dead is in its way. */
const nodeAgain = `
const { test } = require('node:test');
const pg = require('pg');
const velo = require('velo-node/node-test');
test('order', async (t) => {
    const branch = await velo.branch(t);${BODY}});
`;
const jestAgain = `
const pg = require('pg');
const velo = require('velo-node/jest');
test('order', async () => {
    const branch = await velo.branch();${BODY}
    await branch.close();
}, 120_000);
`;

/** The lines that are whole of what a test has noted. */
function noted({ folder }, name) {
  const file = path.join(folder, `${name}.noted`);
  if (!existsSync(file)) return [];
  const lines = readFileSync(file, 'utf8').split('\n').slice(0, -1);
  return lines.map((line) => JSON.parse(line));
}

/** Starts Node with a suite's tests, and waits until those of these names hold what they have. */
async function holding(t, of, args, ...names) {
  const running = start(process.execPath, args, { cwd: of.folder });
  const said = () => `${running.out}${running.err}`;
  // Whatever fails in here, nobody waits on.
  t.after(() => {
    running.child.kill('SIGKILL');
    of.put('go', '');
  });
  const isHeld = () => running.child.exitCode !== null || names.every((name) => noted(of, name).length === 1);
  assert.ok(await within(4 * SOON, isHeld), said());
  assert.equal(running.child.exitCode, null, said());
  const all = names.map((name) => noted(of, name)[0]);
  for (const { pid, servers } of all) assert.ok([pid, ...servers].every(lives), said());
  return { running, said, all };
}

const keepers = () => living().filter((one) => one.startsWith('keeper'));
const ended = (pids) => within(SOON, () => !pids.some(lives));

/** Has those go on that outlived their runner: each is told that its run is over, and ends. */
async function goOn(of, holders) {
  of.put('go', '');
  for (const [name, { pid }] of holders) {
    const isTold = () => noted(of, name).length === 2 || !lives(pid);
    assert.ok(await within(SOON, isTold), name);
    const [, { told, message } = {}] = noted(of, name);
    assert.equal(told, 'canceled', `${name}: ${message}`);
    assert.match(message, /has ended/);
  }
  assert.ok(await ended(holders.map(([, { pid }]) => pid)));
}

/** Kills the first of two that hold: what it had goes, and the other goes on to its end. What the whole run came to. */
async function firstIsKilled(of, { running, said, all }) {
  process.kill(all[0].pid, 'SIGKILL');
  assert.ok(await ended(all[0].servers), said());
  assert.ok([all[1].pid, ...all[1].servers].every(lives), said());
  assert.equal(keepers().length, 1);
  of.put('go', '');
  const whole = await running.ended;
  assert.equal(whole.code, 1, said());
  assert.equal(noted(of, 'b')[1].told, 'a branch', noted(of, 'b')[1].message);
  return whole;
}

/** Kills the one process that holds: it is the run, and has no keeper. */
async function aloneIsKilled({ running, all }) {
  assert.equal(all[0].pid, running.child.pid);
  assert.deepEqual(keepers(), []);
  running.child.kill('SIGKILL');
  await gone();
  await running.ended;
}

/** Nothing is there but a project's `main`, whether that was undone at once or by whoever opened the home next. */
async function isClean(of) {
  await gone();
  let there;
  const isSwept = async () => {
    const opened = await script(`await (await import('velo-node')).Project.list();`).ended;
    assert.equal(opened.code, 0, opened.err);
    // The lock of each process that had anything, and what is left of keepers.
    const folders = ['leases', 'keepers'].map((name) => path.join(home, name)).filter(existsSync);
    there = folders.flatMap((folder) => readdirSync(folder));
    return there.length === 0;
  };
  assert.ok(await within(SOON, isSwept), `${there}`);
  await left(await projectOf(of), 'main');
}

test('a killed run of node:test leaves nothing, and its files are given nothing more', async (t) => {
  const files = { 'a.test.js': ofNode('a'), 'b.test.js': ofNode('b'), 'c.test.js': late('c') };
  const of = suite({ 'hold.js': HOLD, ...files });
  const args = ['--test', '--test-concurrency=3', ...Object.keys(files)];
  const { running, said, all } = await holding(t, of, args, 'a', 'b', 'c');
  assert.equal(keepers().length, 1);
  running.child.kill('SIGKILL');
  // While its files still run.
  await gone();
  assert.deepEqual(all.map(({ pid }) => lives(pid)), [true, true, true], said());
  await goOn(of, ['a', 'b', 'c'].map((name, n) => [name, all[n]]));
  await running.ended;
  await isClean(of);
  of.put('again.test.js', nodeAgain);
  const again = await run(process.execPath, ['--test', '--test-reporter=tap', 'again.test.js'], { cwd: of.folder });
  assert.match(again.out, /# pass 1\n# fail 0/, again.out + again.err);
  await gone();
});

test('a killed file of node:test takes its branches with it, and the others go on', async (t) => {
  const of = suite({ 'hold.js': HOLD, 'a.test.js': ofNode('a'), 'b.test.js': ofNode('b') });
  const args = ['--test', '--test-reporter=tap', '--test-concurrency=2', 'a.test.js', 'b.test.js'];
  const { out } = await firstIsKilled(of, await holding(t, of, args, 'a', 'b'));
  assert.match(out, /^not ok \d+ - .*a\.test\.js$/m);
  assert.match(out, /^ok \d+ - holds$/m);
  await isClean(of);
});

test('a killed file that runs without a runner leaves nothing', async (t) => {
  const of = suite({ 'hold.js': HOLD, 'a.test.js': ofNode('a') });
  await aloneIsKilled(await holding(t, of, ['a.test.js'], 'a'));
  await isClean(of);
});

test('a killed run of Jest with plain hooks leaves nothing, and its workers are given nothing more', async (t) => {
  const files = { 'a.test.js': ofJest('a'), 'b.test.js': ofJest('b') };
  const of = suite({ 'jest.config.js': 'module.exports = {};', 'hold.js': HOLD, ...files });
  const { running, said, all } = await holding(t, of, [JEST, '--ci', '--maxWorkers=2'], 'a', 'b');
  assert.equal(new Set([running.child.pid, ...all.map(({ pid }) => pid)]).size, 3, 'it has two workers');
  assert.equal(keepers().length, 1);
  running.child.kill('SIGKILL');
  // While its workers still run.
  await gone();
  assert.deepEqual(all.map(({ pid }) => lives(pid)), [true, true], said());
  await goOn(of, ['a', 'b'].map((name, n) => [name, all[n]]));
  await running.ended;
  await isClean(of);
  of.put('again.test.js', jestAgain);
  passed(await jest(of, ['again']), 1);
  await gone();
});

test('a killed worker of Jest takes the branches of plain hooks with it, and the others go on', async (t) => {
  const files = { 'a.test.js': ofJest('a'), 'b.test.js': ofJest('b') };
  const of = suite({ 'jest.config.js': 'module.exports = {};', 'hold.js': HOLD, ...files });
  const args = [JEST, '--ci', '--colors=false', '--maxWorkers=2'];
  const { err } = await firstIsKilled(of, await holding(t, of, args, 'a', 'b'));
  assert.match(err, /A jest worker process \(pid=\d+\) was terminated by another process: signal=SIGKILL/);
  assert.match(err, /Tests: +1 passed, 1 total/);
  await isClean(of);
});

test('a killed run of Jest in band with plain hooks leaves nothing', async (t) => {
  const of = suite({ 'jest.config.js': 'module.exports = {};', 'hold.js': HOLD, 'a.test.js': ofJest('a') });
  await aloneIsKilled(await holding(t, of, [JEST, '--ci', '--runInBand'], 'a'));
  await isClean(of);
});
