'use strict';
// What the hooks of all test runners have in common: a suite's project, its seed, and branches for its tests.

const { createHash } = require('node:crypto');
const path = require('node:path');
const { isMainThread } = require('node:worker_threads');
const { addon } = require('./addon.js');
const { Branches, keepTime, noteBegin, obstacle, printed } = require('./branches.js');
const { call, direct } = require('./call.js');
const { Config, RAW } = require('./config.js');
const { codeOf, definitionOf, hasSeed, isStale, rootOf } = require('./definition.js');
const { VeloError } = require('./error.js');
const { BASE, Project } = require('./handles.js');
const { embeddedPostgres } = require('./postgres.js');

/** After how many milliseconds a seed that nobody has used goes. */
const UNUSED = 7 * 24 * 3_600_000;

/** A suite, by its root folder: two checkouts have two projects. */
class Suite {
  static #all = new Map();

  /** The one whose tests are in this folder, made once for each thread. */
  static of(folder) {
    const root = rootOf(folder);
    const known = Suite.#all.get(root);
    if (known) return known;
    const suite = new Suite(root);
    Suite.#all.set(root, suite);
    return suite;
  }

  /** All that this thread has. */
  static all() {
    return [...Suite.#all.values()];
  }

  #project;
  #code;
  #definition;
  #seed;
  #pool;

  constructor(root) {
    this.root = root;
  }

  /** Whether there is anything to build. */
  get hasSeed() {
    return hasSeed(this.root);
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
    this.#look();
    this.#seed ??= this.#made().catch((error) => {
      // What a build failed with, it fails with for all of the run.
      if (!this.#failed.has(error)) this.#seed = undefined;
      throw error;
    });
    return this.#seed;
  }

  /** A branch, which whoever asks closes. */
  async acquire(label) {
    if (isOrphaned()) throw new VeloError('the runner of this test has ended', { kind: 'canceled' });
    this.#look();
    this.#pool ??= this.#filled().catch((error) => {
      this.#pool = undefined;
      throw error;
    });
    return (await this.#pool).acquire({ label });
  }

  /** Before the first test of a run, where no time limit of a test's counts: all that they have in common. */
  async begin({ isWatched = false } = {}) {
    // A wrong time is said before it is needed.
    keepTime();
    if (isWatched) noteBegin();
    this.#forget();
    await this.project();
    if (!this.hasSeed) return;
    try {
      await this.seed();
    } catch (error) {
      // The processes of tests may be new ones.
      if (!isStale(error)) throw error;
    }
  }

  /** Before the tests of a file, where no `begin` was: no time limit counts. What goes wrong is said by who asks. */
  async prepare() {
    if (this.hasSeed) await this.seed().catch(() => {});
  }

  /** Waits until the files of what was closed are gone, and lets go of all. */
  async end() {
    const project = await this.#project;
    this.#forget();
    // Each change to the code that builds makes another seed.
    if (this.#isOwn) await project?.pruneSeeds(UNUSED).catch(() => {});
    await project?.finishDeletions();
  }

  #failed = new WeakSet();
  /** Whether nothing but this suite is in its project. */
  #isOwn = false;

  /** The seed is that of its file as it is now, and else the same for a whole run. */
  #look() {
    const code = codeOf(this.root);
    if (this.#code === code) return;
    this.#forget();
    this.#code = code;
  }

  #forget() {
    this.#code = undefined;
    this.#definition = undefined;
    this.#project = undefined;
    this.#seed = undefined;
    this.#pool = undefined;
  }

  #defined() {
    this.#definition ??= definitionOf(this.root).catch((error) => {
      this.#definition = undefined;
      throw error;
    });
    return this.#definition;
  }

  async #opened() {
    addon().tellWaits();
    // All workers draw on one pool.
    if (startedByRunner()) addon().useParentsRun();
    this.#look();
    const { project: told, config: settings } = await this.#defined();
    const config = new Config(settings ?? {});
    const project = await opened(told ?? nameOf(this.root, config, settings), config, settings, this.root);
    // Passed over, they would have tests pass on what nobody asked for.
    direct(() => project[RAW].refuseOtherSettings());
    this.#isOwn = told === undefined;
    // Wherever the runner was started.
    Object.defineProperty(project, BASE, { value: this.root });
    return project;
  }

  async #made() {
    const project = await this.project();
    const { build, sql, files, texts, label, code } = await this.#defined();
    if (sql !== undefined) return project.seedSql(sql, { texts, label });
    const watched = async (branch) => {
      try {
        return await build(branch);
      } catch (error) {
        if (typeof error === 'object' && error !== null) this.#failed.add(error);
        throw error;
      }
    };
    return project.seed({ build: watched, files, texts, code, label });
  }

  async #filled() {
    const seed = await this.seed();
    const { ready } = await this.#defined();
    const pool = await seed.pool();
    if (ready !== undefined) {
      const { limit } = await pool.info();
      await pool.keepReady(ready, Math.max(ready, limit));
    }
    return pool;
  }
}

async function opened(name, config, settings, root) {
  // Seeds are cloned from its files: it needs no server.
  const made = async (config) => {
    const project = await Project.openOrCreate(name, { config, mainStopped: true });
    // One that is there already may have been made with a PostgreSQL that is elsewhere by now, or gone.
    await call(() => project[RAW].findPostgres());
    return project;
  };
  try {
    return await made(config);
  } catch (error) {
    // What somebody names is not there: another one is not what he asked for.
    const isNamed = settings?.pgBin ?? process.env.VELO_PG_BIN;
    const pgBin = error.kind === 'postgres_missing' && !isNamed && embeddedPostgres(root);
    if (!pgBin) throw error;
    return made(new Config({ ...settings, pgBin })).catch((other) => {
      throw other.kind === 'invalid_input' || other.kind === 'incompatible' ? error : other;
    });
  }
}

/** What the project of a suite is called: after its folder, where that is, and the PostgreSQL that somebody names. */
function nameOf(root, config, settings) {
  const named = [config.pgVersion, settings?.pgBin].filter((which) => which !== undefined && which !== null);
  const hash = createHash('sha256').update([root, ...named].join('\0')).digest('hex').slice(0, 8);
  const word = path.basename(root).toLowerCase().replace(/[^a-z0-9]+/g, '-').replace(/^-|-$/g, '').slice(0, 40);
  return `${word.replace(/-$/, '') || 'tests'}-${hash}`;
}

/** Whether this process is one of several that a runner started. */
function startedByRunner() {
  // Not `send`: the sandbox of Jest has one in every process.
  return (isMainThread && isForked() && process.connected === true) || isOfNodeTest();
}

/** Whether the runner that started this process was killed: it goes on to the end of its file, for nobody. */
function isOrphaned() {
  return isForked() && process.connected === false;
}

function isForked() {
  return process.env.JEST_WORKER_ID !== undefined || process.env.VITEST !== undefined;
}

function isOfNodeTest() {
  return isMainThread && process.env.NODE_TEST_CONTEXT?.startsWith('child') === true;
}

module.exports = { Branches, Suite, obstacle, printed };
