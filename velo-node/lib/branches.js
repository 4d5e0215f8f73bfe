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
    const time = keepTime();
    if (time === 0) return '';
    const told = [];
    for (const branch of this.#made) told.push(await kept(branch, time));
    return told.join('\n');
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

/** Has the branch of a failed test stay for a while, and says how it is reached and ended. */
async function kept(branch, time) {
  try {
    if (!(await call((addon) => addon.keepFailed(branch[RAW], time)))) {
      return `velo: its database does not stay: others do already (velo branch list ${branch.project.name})`;
    }
  } catch (error) {
    return `velo: its database does not stay: ${error.message}`;
  }
  return [
    `velo: its database stays for ${Math.round(time / 60_000)} minutes: ${branch.url}`,
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

module.exports = { Branches, obstacle, printed };
