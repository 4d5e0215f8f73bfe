'use strict';
// The branches of tests: how long they live, and what is told of them.

const { call } = require('./call.js');
const { RAW } = require('./config.js');
const { VeloError, explained, invalid } = require('./error.js');

const KEEP = 60 * 60 * 1000;

/** The branches of one test, or of one file. */
class Branches {
  #made = [];
  #isClosed = false;

  constructor(suite) {
    this.suite = suite;
  }

  async acquire(label) {
    try {
      if (this.#isClosed) throw late();
      const branch = await this.suite.acquire(label);
      if (this.#isClosed) {
        await branch.close();
        throw late();
      }
      this.#made.push(branch);
      return branch;
    } catch (error) {
      throw printed(error);
    }
  }

  /** Has all of them stay for a while, and gives what is to be told of them. */
  async keep() {
    // Of a worker whose runner was killed nobody reads what stays; it runs its file to the end all the same, and each of
    // its tests fails.
    if (process.connected === false) return '';
    const told = [];
    for (const branch of this.#made) told.push(await kept(branch));
    return told.filter(Boolean).join('\n');
  }

  /** Ends those that do not stay, and what comes later. */
  async close() {
    this.#isClosed = true;
    const made = this.#made;
    this.#made = [];
    await Promise.all(made.map((branch) => branch.close()));
  }
}

function late() {
  return new VeloError('the test that asked for this branch has ended', { kind: 'canceled' });
}

/** How long the branch of a failed test stays, by `VELO_KEEP_FAILED`; 0 is not at all. */
function keepTime() {
  const text = process.env.VELO_KEEP_FAILED?.trim();
  if (text === undefined) return KEEP;
  if (text === 'none' || text === '0') return 0;
  const [, number, unit] = /^(\d+)([mhd])$/.exec(text) ?? [];
  if (number === undefined) {
    throw invalid(`VELO_KEEP_FAILED="${text}" is no time`, 'write one like 30m or 2h, or none');
  }
  return Number(number) * { m: 1, h: 60, d: 24 * 60 }[unit] * 60_000;
}

/** The most branches of failed tests that a project keeps, as velo-core has it. */
const MOST = 10;
const BEGAN = '_VELO_NODE_RUN_BEGAN';

/** Notes in what this process starts that a run begins, where one process has many: velo-core takes all for one. */
function noteBegin() {
  process.env[BEGAN] = String(Date.now());
}

/** When this run began, if others of the same process were before it; else 0. */
function began() {
  // What Node watches it starts anew for each run.
  if (process.env.NODE_TEST_CONTEXT && process.env.WATCH_REPORT_DEPENDENCIES) return performance.timeOrigin;
  return Number(process.env[BEGAN] ?? 0);
}

/** Ends branches that were kept before this run: the same test's, and where there are as many as may be, the oldest. */
async function makeWay(branch, time, begin) {
  const { project } = branch;
  const [, label = 'branch'] = /~(.+)\.[^.]*$/.exec(branch.fullName) ?? [];
  let kept = 0;
  const before = [];
  for (const { name, expiresAt, protected: isProtected } of await project.branches()) {
    const [, of] = /^kept\/(.*)-[^-]*$/.exec(name ?? '') ?? [];
    if (of === undefined) continue;
    const mayGo = expiresAt !== null && !isProtected && expiresAt - time < begin;
    if (mayGo && of === label && (await goes(project, name))) continue;
    kept += 1;
    if (mayGo) before.push(name);
  }
  while (kept >= MOST && before.length > 0) if (await goes(project, before.shift())) kept -= 1;
}

/** Deletes a branch that has nothing below it. Whether it is gone. */
async function goes(project, name) {
  try {
    await (await project.branch(name)).delete();
  } catch (error) {
    if (error.kind === 'conflict') return false;
    if (error.kind !== 'not_found') throw error;
  }
  return true;
}

/**
 * Has the branch of a failed test stay for a while, and says how it is reached and ended. What keeps it from that is told
 * too: an error would stand before what the test failed with.
 */
async function kept(branch) {
  let time;
  try {
    time = keepTime();
    if (time === 0) return '';
    if (began() > 0) await makeWay(branch, time, began());
    if (!(await call((addon) => addon.keepFailed(branch[RAW], time)))) {
      return `velo: its database does not stay: others do already (velo branch list ${branch.project.name})`;
    }
  } catch (error) {
    return `velo: its database does not stay: ${explained(error)}`;
  }
  return [
    `velo: its database stays for ${Math.round(time / 60_000)} minutes, and then until Velo is next used: ${branch.url}`,
    `  psql '${branch.url}'`,
    `  npx --no-install velo branch delete ${branch.fullName}`,
  ].join('\n');
}

/** An error of Velo's whose message has the hint too: runners print only that. Any other as it is. */
function printed(error) {
  if (!(error instanceof VeloError)) return error;
  const { kind, hint, context, cause } = error;
  return new VeloError(`velo: ${explained(error)}`, { kind, hint, context, cause });
}

/** What keeps all tests from running. Runners print the stack, which of an error of Velo's says nothing of the matter. */
function obstacle(error) {
  const told = printed(error);
  if (told !== error) {
    told.stack = told.message;
    return told;
  }
  const said = (text) => `velo: the seed cannot be built: ${text}`;
  const failed = new VeloError(said(error?.message ?? error), { kind: 'seed', cause: error });
  failed.stack = said(error?.stack ?? error);
  return failed;
}

module.exports = { Branches, keepTime, noteBegin, obstacle, printed };
