// The handles.

import assert from 'node:assert/strict';
import { mkdirSync, mkdtempSync, renameSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { after, before, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { inspect } from 'node:util';
import pg from 'pg';
import { Branch, Project, version } from 'velo-node';
import { HERE, SOON, count, end, lives, project as make, query, require, within, write } from './support.mjs';

let project;
before(async () => {
  project = await make();
});
after(end);

const shown = async () => (await project.branches()).map((branch) => branch.shown);

test('a branch lives as long as it is open', async () => {
  const branch = await Branch.create(project, { label: 'tests/a b' });
  assert.equal(branch.ephemeral, true);
  assert.equal(branch.name, null);
  assert.match(branch.fullName, /^api\/~tests-a-b\./);
  await write(branch);
  assert.equal(await count(branch), 1);
  const info = await branch.info();
  assert.deepEqual([info.state, info.parentShown, info.expiresAt], ['running', 'main', null]);
  assert.ok(info.createdAt instanceof Date && Date.now() - info.createdAt < 300_000);
  assert.ok(info.cut.major >= 14 && info.cut.at instanceof Date);
  assert.match(info.cut.systemIdentifier, /^\d{10,20}$/);
  assert.ok(branch.timings.total > 0 && branch.timings.steps.some((step) => step.name === 'clone'));
  const { host, port, user, password, database } = branch.connection;
  const db = new pg.Client({ host, port, user, password, database });
  await db.connect();
  await db.end();
  for (const printed of [branch, branch.connection, project].map((one) => inspect(one))) {
    assert.ok(!printed.includes(password), printed);
  }
  assert.ok((await branch.usage()).available > 0);
  await branch.close();
  assert.equal(lives(info.pid), false);
  const error = await branch.start().catch((thrown) => thrown);
  assert.deepEqual([error.kind, error.hint], ['not_found', 'it was closed or deleted meanwhile']);
});

test('await using closes it', async () => {
  const made = await Branch.create(project);
  const { pid } = await made.info();
  // What `await using` does, which Node 20 does not understand.
  await made[Symbol.asyncDispose]();
  assert.equal(lives(pid), false);
});

test('a lasting branch is changed and reset', async () => {
  const branch = await Branch.create(project, { name: 'dev', settings: { work_mem: '5MB' } });
  const { url } = branch;
  await write(branch);
  const taken = await branch.snapshot('before');
  assert.deepEqual([taken.name, (await taken.info()).branch], ['before', 'dev']);
  assert.ok((await taken.usage()).referenced > 0);
  await write(branch);
  await branch.reset({ snapshot: 'before' });
  assert.deepEqual([await count(branch), branch.url], [1, url]);
  assert.deepEqual(await query(url, 'SHOW work_mem'), [{ work_mem: '5MB' }]);
  await branch.stop();
  assert.equal((await branch.info()).state, 'stopped');
  await branch.start();
  await branch.restart();
  await branch.protect();
  await assert.rejects(branch.delete({ force: true }), { kind: 'conflict' });
  await branch.protect(false);
  await branch.setTtl(3_600_000);
  assert.ok((await branch.info()).expiresAt > new Date());
  await branch.setTtl(null);
  assert.equal((await branch.info()).expiresAt, null);
  assert.deepEqual(await branch.outgoing(), []);
  const other = await Branch.create(project, { from: taken });
  assert.equal(await count(other), 1);
  await other.close();
  assert.deepEqual((await project.snapshots()).map((one) => one.name), ['before']);
  assert.equal((await project.snapshot('dev@before')).id, taken.id);
  await taken.delete();
  await branch.reset({ origin: true });
  await branch.delete({ force: true });
  assert.deepEqual(await shown(), ['main']);
});

test('an ephemeral branch can stay', async () => {
  const branch = await Branch.create(project, { label: 'stays' });
  await write(branch);
  await branch.keep({ name: 'kept-one', ttl: 3_600_000 });
  assert.equal(branch.ephemeral, false);
  assert.equal(await count(await project.branch('kept-one')), 1);
  await branch.delete({ force: true });
});

test('a branch of a moment', async () => {
  const kept = await Project.create('kept', { walRetention: 7 * 86_400_000 });
  assert.equal((await kept.info()).walRetention, 7 * 86_400_000);
  // It began empty.
  assert.equal((await kept.info()).source, null);
  const main = await kept.main();
  await write(main);
  const point = await main.restorePoint('one row');
  assert.equal(point.name, 'one row');
  assert.match(point.lsn, /^[0-9A-F]+\/[0-9A-F]+$/);
  const [{ xid }] = await query(main.url, 'INSERT INTO t VALUES (2) RETURNING pg_current_xact_id() AS xid');
  // A date is in milliseconds.
  const clock = "SELECT date_trunc('milliseconds', clock_timestamp()) AS at FROM pg_sleep(0.005)";
  const [{ at }] = await query(main.url, clock);
  await query(main.url, 'INSERT INTO t VALUES (3)');
  const holds = async (options, rows) => {
    const branch = await Branch.create(kept, options);
    assert.equal(await count(branch), rows, inspect(options));
    const info = await branch.info();
    await branch.close();
    return info;
  };
  const { reached } = await holds({ atName: 'one row' }, 1);
  assert.deepEqual([reached.lsn, reached.timeline], [point.lsn, 1]);
  assert.ok(reached.committedAt instanceof Date && reached.committedAt < at && reached.replayed > 0);
  assert.ok(reached.since instanceof Date && reached.since <= reached.committedAt);
  await holds({ at }, 2);
  await holds({ at: 'now' }, 3);
  await holds({ atXid: xid }, 2);
  await holds({ atXid: BigInt(xid), exclusive: true }, 1);
  await holds({ atLsn: point.lsn }, 1);
  await assert.rejects(Branch.create(kept, { at: new Date(at - 3_600_000) }), { kind: 'not_found' });
  for (const wrong of [{ at: 'yesterday' }, { at, atXid: 700 }, { exclusive: true }, { atXid: 'x' }, { at: new Date(NaN) }]) {
    await assert.rejects(Branch.create(kept, wrong), { kind: 'invalid_input' }, inspect(wrong));
  }
  assert.deepEqual((await kept.branches()).map((one) => one.shown), ['main']);
  await assert.rejects(kept.setWalRetention(), { kind: 'invalid_input', message: /was given no time/ });
  assert.notEqual((await (await Project.open('kept')).info()).walRetention, null);
  assert.deepEqual(await kept.setWalRetention(null), ['main']);
  assert.equal((await (await Project.open('kept')).info()).walRetention, null);
  await kept.delete({ force: true });
});

test('a branch goes with its last handle', async () => {
  let branch = await Branch.create(project);
  const { pid } = await branch.info();
  branch = undefined;
  require('node:v8').setFlagsFromString('--expose-gc');
  const gc = require('node:vm').runInNewContext('gc');
  assert.ok(await within(SOON, () => (gc(), !lives(pid))));
});

test('a seed is built once', async () => {
  const calls = [];
  const build = async (branch) => {
    calls.push(branch.fullName);
    await write(branch);
  };
  const first = await project.seed({ build, texts: ['once'], label: 'orders' });
  assert.equal((await project.seed({ build, texts: ['once'] })).id, first.id);
  assert.equal(calls.length, 1);
  assert.notEqual((await project.seed({ build, texts: ['another'] })).id, first.id);
  const info = await first.info();
  assert.ok(info.ready && info.shown.startsWith('orders-') && info.usedAt instanceof Date);
  const branch = await first.branch();
  assert.equal(await count(branch), 1);
  await branch.close();
  assert.ok((await project.seeds()).some((seed) => seed.id === first.id));
  assert.ok((await first.usage()).referenced > 0);
  await first.delete();
  const pruned = await project.pruneSeeds(0);
  assert.ok(pruned.length > 0 && pruned.every((one) => one.ready));
});

test('of many who ask at once one builds it', async () => {
  let built = 0;
  const build = async (branch) => {
    built += 1;
    await write(branch);
  };
  const seeds = await Promise.all(Array.from({ length: 5 }, () => project.seed({ build, texts: ['crowd'] })));
  assert.equal(built, 1);
  assert.equal(new Set(seeds.map((seed) => seed.id)).size, 1);
  await project.pruneSeeds(0);
});

test('what the build throws is what the seed is rejected with, and nothing stays', async () => {
  const mine = new RangeError('mine');
  const build = async (branch) => {
    await write(branch);
    throw mine;
  };
  const before = (await project.seeds()).length;
  await assert.rejects(project.seed({ build }), (error) => error === mine);
  const generates = function* () {};
  await assert.rejects(project.seed({ build: generates }), { kind: 'invalid_input', message: /generator/ });
  assert.equal((await project.seeds()).length, before);
  assert.deepEqual(await shown(), ['main']);
});

test('a seed that is given up while it is built can be built by the next', async () => {
  const controller = new AbortController();
  const reason = new Error('no more');
  const given = { code: 'given up', build: write };
  const build = async (branch) => {
    await write(branch);
    controller.abort(reason);
  };
  const before = (await project.seeds()).length;
  await assert.rejects(project.seed({ ...given, build, signal: controller.signal }), { kind: 'canceled', cause: reason });
  assert.equal((await project.seeds()).length, before);
  assert.deepEqual(await shown(), ['main']);
  const seed = await project.seed({ ...given, signal: AbortSignal.timeout(4 * SOON) });
  const branch = await seed.branch();
  assert.equal(await count(branch), 1);
  await branch.close();
  await seed.delete();
});

test('a seed whose build never settles is given up by its signal', async () => {
  const reason = new Error('no more');
  const controller = new AbortController();
  const before = (await project.seeds()).length;
  let told;
  let fail;
  const begun = new Promise((resolve) => (told = resolve));
  const build = (branch, { signal }) => {
    told({ branch, signal });
    return new Promise((_, reject) => (fail = reject));
  };
  const given = { code: 'never settles' };
  const asked = project.seed({ ...given, build, signal: controller.signal });
  const { branch, signal } = await Promise.race([begun, asked]);
  assert.equal(signal, controller.signal);
  const { pid } = await branch.info();
  controller.abort(reason);
  const hangs = sleep(SOON, 'it hangs', { ref: false });
  await assert.rejects(Promise.race([asked, hangs]), { kind: 'canceled', cause: reason });
  // Nobody waits for this any more, and nobody has to hear of it.
  fail(new Error('late'));
  assert.ok(await within(SOON, () => !lives(pid)));
  assert.equal((await project.seeds()).length, before);
  assert.deepEqual(await shown(), ['main']);
  // Whoever asks next builds it.
  const seed = await project.seed({ ...given, build: write, signal: AbortSignal.timeout(4 * SOON) });
  await seed.delete();
});

test('a seed counts the files and the code that make it', async () => {
  const folder = mkdtempSync(path.join(HERE, 'velo [seed] '));
  writeFileSync(path.join(folder, 'one.sql'), 'CREATE TABLE one ()');
  const bySql = await project.seedSql(folder);
  writeFileSync(path.join(folder, 'two.sql'), 'CREATE TABLE two ()');
  assert.notEqual((await project.seedSql(folder)).id, bySql.id);
  const told = await project.seedSql(folder, { texts: ['1'], label: 'mine' });
  assert.match((await told.info()).shown, /^mine-/);
  assert.equal((await project.seedSql(folder, { texts: ['1'] })).id, told.id);
  assert.notEqual((await project.seedSql(folder, { texts: ['2'] })).id, told.id);
  const nothing = () => {};
  const keyOf = async (files) => (await project.seed({ build: nothing, files })).key;
  for (const pattern of ['*.sql', '**', '.']) {
    const files = path.join(folder.replace('[seed]', '[[]seed[]]'), pattern);
    const first = await keyOf(pattern === '.' ? folder : files);
    writeFileSync(path.join(folder, 'two.sql'), `CREATE TABLE other_${pattern.length} ()`);
    assert.notEqual(await keyOf(pattern === '.' ? folder : files), first);
  }
  const inner = mkdtempSync(path.join(HERE, 'velo-'));
  mkdirSync(path.join(inner, 'inner'));
  renameSync(path.join(folder, 'two.sql'), path.join(inner, 'inner', 'two.sql'));
  const here = process.cwd();
  process.chdir(inner);
  try {
    assert.equal(await keyOf(['inner']), await keyOf(new Set(['inner/**'])));
  } finally {
    process.chdir(here);
  }
  const byCode = async (code) => (await project.seed({ build: nothing, code })).id;
  assert.notEqual(await byCode('1'), await byCode('2'));
  await assert.rejects(project.seed({ build: nothing.bind(null) }), { kind: 'invalid_input', hint: /give `code`/ });
  await project.pruneSeeds(0);
});

test('a pool hands over what is ready', async () => {
  const pool = await (await project.seed({ build: write, label: 'pool' })).pool();
  await pool.keepReady(2, 4);
  assert.ok(await within(4 * SOON, async () => (await pool.info()).ready >= 2));
  const [branch, other] = await Promise.all([pool.acquire({ label: 'mine' }), pool.acquire()]);
  await write(branch);
  assert.deepEqual([await count(branch), await count(other)], [2, 1]);
  assert.match(branch.fullName, /~mine\./);
  await Promise.all([branch.close(), other.close()]);
  await pool.keepReady(0, 0);
});

test('the event loop turns meanwhile', async () => {
  let turns = 0;
  const timer = setInterval(() => (turns += 1), 1);
  const branch = await Branch.create(project);
  clearInterval(timer);
  await branch.close();
  assert.ok(turns >= 5, String(turns));
});

test('a signal ends a call, and what it began is undone', async () => {
  const reason = new Error('no more');
  const early = AbortSignal.abort(reason);
  await assert.rejects(Branch.create(project, { signal: early }), { kind: 'canceled', cause: reason });
  let error;
  // Where the machine is busy, a branch may be there before the signal is.
  while (error === undefined) {
    const controller = new AbortController();
    const created = Branch.create(project, { signal: controller.signal });
    setTimeout(() => controller.abort(reason), 5);
    error = await created.then((branch) => branch.close(), (thrown) => thrown);
  }
  assert.deepEqual([error.kind, error.code, error.cause], ['canceled', 'VELO_CANCELED', reason]);
  assert.ok(await within(SOON, async () => (await shown()).length === 1), String(await shown()));
  // One that comes too late does nothing.
  const late = new AbortController();
  const branch = await Branch.create(project, { signal: late.signal });
  late.abort();
  await write(branch);
  await branch.close();
});

test('ESM and CommonJS have the same', () => {
  const velo = require('velo-node');
  assert.equal(velo.Branch, Branch);
  assert.equal(velo.version, version);
  assert.equal(version, require('velo-node/package.json').version);
  assert.equal(typeof Project.open, 'function');
});
