'use strict';
// What the hooks of all test runners have in common: a suite's project, its seed, and branches for its tests.

const { createHash } = require('node:crypto');
const { existsSync, readFileSync } = require('node:fs');
const path = require('node:path');
const { pathToFileURL } = require('node:url');
const { isMainThread } = require('node:worker_threads');
const { addon } = require('./addon.js');
const { call } = require('./call.js');
const { Config, RAW } = require('./config.js');
const { VeloError, explained, invalid } = require('./error.js');
const { BASE, Project } = require('./handles.js');
const { embeddedPostgres } = require('./postgres.js');

const SEED_FILES = ['js', 'cjs', 'mjs', 'ts', 'cts', 'mts'].map((ending) => `velo.seed.${ending}`);
const SEED_NAMES = ['build', 'sql', 'files', 'texts', 'label', 'project', 'config', 'ready'];
const KEEP = 60 * 60 * 1000;

/** A suite, by its root folder: two checkouts have two projects. */
class Suite {
  static #all = new Map();

  /** The one of this root, made once for each thread. */
  static of(root) {
    const known = Suite.#all.get(root);
    if (known) return known;
    const suite = new Suite(root);
    Suite.#all.set(root, suite);
    return suite;
  }

  #project;
  #pool;
  #code;

  constructor(root) {
    this.root = root;
  }

  /** The project, made where there is none. */
  project() {
    this.#project ??= this.#opened().catch((error) => {
      this.#project = undefined;
      throw error;
    });
    return this.#project;
  }

  /** What branches begin with: what the suite's velo.seed.js makes, else an empty database. */
  async seed() {
    return seedOf(await this.project(), await definitionOf(this.root));
  }

  /** A branch, which whoever asks closes. */
  async acquire(label) {
    const pool = await this.#pooled();
    return pool.acquire({ label });
  }

  /** Waits until the files of what was closed are gone, and lets go of all. */
  async end() {
    const project = await this.#project;
    this.#project = undefined;
    this.#pool = undefined;
    await project?.finishDeletions();
  }

  async #opened() {
    // All workers draw on one pool.
    if (startedByRunner()) addon().useParentsRun();
    const { project: name = nameOf(this.root), config: settings } = await definitionOf(this.root);
    const config = settings && new Config(settings);
    const project = await opened(name, config, settings, this.root);
    // Wherever the runner was started.
    Object.defineProperty(project, BASE, { value: this.root });
    return project;
  }

  /** The pool of the seed as its file is now: in watch mode that may change. */
  async #pooled() {
    const code = codeOf(this.root);
    if (this.#pool === undefined || this.#code !== code) {
      this.#code = code;
      this.#pool = this.#made().catch((error) => {
        this.#pool = undefined;
        throw error;
      });
    }
    return this.#pool;
  }

  async #made() {
    const { ready } = await definitionOf(this.root);
    const seed = await this.seed();
    const pool = await seed.pool();
    if (ready !== undefined) {
      const { limit } = await pool.info();
      await pool.keepReady(ready, Math.max(ready, limit));
    }
    return pool;
  }
}

/** The branches of one test, or of one file. */
class Branches {
  #made = [];

  constructor(suite) {
    this.suite = suite;
  }

  async acquire(label) {
    try {
      const branch = await this.suite.acquire(label);
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

  /** Ends those that do not stay. */
  async close() {
    const made = this.#made;
    this.#made = [];
    await Promise.all(made.map((branch) => branch.close()));
  }
}

async function opened(name, config, settings, root) {
  try {
    return await Project.open(name, { config });
  } catch (error) {
    if (error.kind !== 'not_found') throw error;
  }
  let project;
  try {
    project = await Project.openOrCreate(name, { config });
  } catch (error) {
    const pgBin = error.kind === 'postgres_missing' && embeddedPostgres(root);
    if (!pgBin) throw error;
    project = await Project.openOrCreate(name, { config: new Config({ ...settings, pgBin }) });
  }
  // Seeds are cloned from its files: it needs no server.
  await (await project.main()).stop();
  return project;
}

/** What the project of a suite is called: after its folder, and where that is. */
function nameOf(root) {
  const hash = createHash('sha256').update(root).digest('hex').slice(0, 8);
  const word = path.basename(root).toLowerCase().replace(/[^a-z0-9]+/g, '-').replace(/^-|-$/g, '').slice(0, 40);
  return `${word.replace(/-$/, '') || 'tests'}-${hash}`;
}

async function seedOf(project, { build, sql, files, texts, label, code }) {
  if (sql !== undefined) return project.seedSql(sql);
  return project.seed({ build, files, texts, code, label });
}

function seedFile(root) {
  return SEED_FILES.map((name) => path.join(root, name)).find(existsSync);
}

/** The text of the file that says how the seed is made, or nothing. */
function codeOf(root) {
  const file = seedFile(root);
  return file === undefined ? '' : readFileSync(file, 'utf8');
}

/** What velo.seed.js says. */
async function definitionOf(root) {
  const file = seedFile(root);
  if (file === undefined) return { build: () => {}, code: 'empty', label: 'empty' };
  const code = codeOf(root);
  const exported = await loadedFrom(file, code);
  const told = typeof exported === 'function' ? { build: exported } : exported;
  if (typeof told !== 'object' || told === null) throw invalid(`${file} exports neither a function nor an object`);
  for (const name of Object.keys(told)) {
    if (!SEED_NAMES.includes(name)) throw invalid(`${file} has no option ${name}`, `it has ${SEED_NAMES.join(', ')}`);
  }
  if (told.sql !== undefined && (told.build !== undefined || told.files !== undefined)) {
    throw invalid(`${file} has sql, and build or files beside it`, 'sql alone says which files are run');
  }
  if (told.sql === undefined && typeof told.build !== 'function') {
    throw invalid(`${file} has neither sql nor build`, 'sql names files; build is a function that is given a branch');
  }
  return { label: 'seed', ...told, code };
}

/** What a module exports, loaded anew where its text changed. */
async function loadedFrom(file, code) {
  const known = loaded.get(file);
  if (known?.code === code) return known.exported;
  const exported = await loadedAnew(file, code, known !== undefined);
  loaded.set(file, { code, exported });
  return exported;
}

const loaded = new Map();

async function loadedAnew(file, code, again) {
  delete require.cache[file];
  let exported;
  try {
    exported = require(file);
  } catch (error) {
    if (!ONLY_IMPORTED.includes(error.code) && !(error instanceof SyntaxError)) throw error;
  }
  // A module of ESM is required once, and a second time only under another name.
  if (exported === undefined || (again && isModule(exported))) {
    const hash = createHash('sha256').update(code).digest('hex').slice(0, 16);
    exported = await import(`${pathToFileURL(file)}?${hash}`);
  }
  return (isModule(exported) || exported.__esModule) && exported.default !== undefined ? exported.default : exported;
}

const ONLY_IMPORTED = ['ERR_REQUIRE_ESM', 'ERR_REQUIRE_ASYNC_MODULE', 'ERR_UNKNOWN_FILE_EXTENSION'];
const isModule = (exported) => exported?.[Symbol.toStringTag] === 'Module';

/** Whether this process is one of several that a runner started. */
function startedByRunner() {
  const { env } = process;
  if (!isMainThread) return false;
  const forked = env.JEST_WORKER_ID !== undefined || env.VITEST !== undefined;
  // Not `send`: the sandbox of Jest has one in every process.
  return (forked && process.connected === true) || env.NODE_TEST_CONTEXT?.startsWith('child') === true;
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

module.exports = { Branches, Suite, printed };
