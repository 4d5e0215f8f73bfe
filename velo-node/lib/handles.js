'use strict';
// The handles that people see: what the addon's can do, with promises, dates and Velo's errors.

const { inspect } = require('node:util');
const { call, checkSignal, direct, options, present, unlessAborted } = require('./call.js');
const { Config, RAW } = require('./config.js');
const { VeloError, invalid } = require('./error.js');
const { codeOf, patternsOf } = require('./files.js');

/** The folder of a project's files that are named by a relative path: a suite's root, else the working directory. */
const BASE = Symbol.for('velo-node.base');

const ASYNC_DISPOSE = Symbol.asyncDispose ?? Symbol.for('Symbol.asyncDispose');

const FOUNDING = ['role', 'database', 'locale', 'mainStopped', 'walRetention'];
const MOMENT = ['at', 'atLsn', 'atName', 'atXid', 'exclusive'];

/** A handle over one of the addon's. */
class Handle {
  constructor(raw) {
    Object.defineProperty(this, RAW, { value: raw });
  }

  [inspect.custom]() {
    return `<${this.constructor.name} ${this.fullName ?? this.name ?? this.id}>`;
  }
}

class Project extends Handle {
  static async open(name, given) {
    const { config, signal } = options(given, ['config', 'signal'], 'Project.open');
    return opened('open', name, config, {}, signal);
  }

  static async create(name, given) {
    const { config, signal, ...founding } = options(given, ['config', ...FOUNDING, 'signal'], 'Project.create');
    return opened('create', name, config, founding, signal);
  }

  static async openOrCreate(name, given) {
    const { config, signal, ...founding } = options(given, ['config', ...FOUNDING, 'signal'], 'Project.openOrCreate');
    return opened('openOrCreate', name, config, founding, signal);
  }

  static async list(given) {
    const { config, signal } = options(given, ['config', 'signal'], 'Project.list');
    const all = await call((addon) => addon.Project.list(rawConfig(config)), signal);
    return all.map(projectInfo);
  }

  get id() {
    return this[RAW].id;
  }

  get name() {
    return this[RAW].name;
  }

  async info() {
    return projectInfo(direct(() => this[RAW].info()));
  }

  async main(given) {
    return new Branch(await call(() => this[RAW].main(), signalOf(given, 'main')));
  }

  async branch(name, given) {
    return new Branch(await call(() => this[RAW].branch(name), signalOf(given, 'branch')));
  }

  async branches(given) {
    const all = await call(() => this[RAW].branches(), signalOf(given, 'branches'));
    return all.map(branchInfo);
  }

  async snapshot(name, given) {
    return new Snapshot(await call(() => this[RAW].snapshot(name), signalOf(given, 'snapshot')));
  }

  async snapshots(given) {
    const all = await call(() => this[RAW].snapshots(), signalOf(given, 'snapshots'));
    return all.map(snapshotInfo);
  }

  async seed(given) {
    const names = ['build', 'files', 'texts', 'code', 'label', 'from', 'signal'];
    const { build, files, texts, code, label, from, signal } = options(given, names, 'Project.seed');
    if (typeof build !== 'function') throw invalid('a seed needs `build`, the function that makes it');
    const building = direct((addon) =>
      this[RAW].seed(
        patternsOf(files, this[BASE] ?? process.cwd()),
        [...(texts ?? [])],
        code ?? codeOf(build),
        label,
        rawSource(addon, from),
      ),
    );
    const found = await call(() => building.next(), signal);
    if (found.seed) return new Seed(found.seed);
    try {
      const result = await unlessAborted(() => build(new Branch(found.branch), { signal }), signal);
      if (typeof result?.next === 'function') throw invalid('build is a generator, of which nothing has run');
      checkSignal(signal);
    } catch (error) {
      await call(() => building.built(false)).catch((undoing) => {
        throw new VeloError(undoing.message, { ...undoing, cause: error });
      });
      throw error;
    }
    return new Seed(await call(() => building.built(true), signal));
  }

  async seedSql(files, given) {
    const { texts, label, signal } = options(given, ['texts', 'label', 'signal'], 'seedSql');
    const [pattern] = patternsOf([files], this[BASE] ?? process.cwd());
    return new Seed(await call(() => this[RAW].seedSql(pattern, [...(texts ?? [])], label), signal));
  }

  async seeds(given) {
    const all = await call(() => this[RAW].seeds(), signalOf(given, 'seeds'));
    return all.map((raw) => new Seed(raw));
  }

  async pruneSeeds(unusedFor, given) {
    const all = await call(() => this[RAW].pruneSeeds(unusedFor), signalOf(given, 'pruneSeeds'));
    return all.map(seedInfo);
  }

  async setWalRetention(time, given) {
    // The addon takes it for null, which ends the keeping.
    if (time === undefined) {
      throw invalid('setWalRetention was given no time', 'milliseconds, or null to keep no WAL from now on');
    }
    return call(() => this[RAW].setWalRetention(time), signalOf(given, 'setWalRetention'));
  }

  async finishDeletions(given) {
    await call(() => this[RAW].finishDeletions(), signalOf(given, 'finishDeletions'));
  }

  async delete(given) {
    const { force = false, signal } = options(given, ['force', 'signal'], 'delete');
    await call(() => this[RAW].delete(force), signal);
  }
}

async function opened(how, name, config, founding, signal) {
  return new Project(await call((addon) => addon.Project.get(how, name, rawConfig(config), present(founding)), signal));
}

/** One that is ephemeral goes with its last handle. */
class Branch extends Handle {
  static async create(project, given) {
    const made = ['name', 'from', 'label', 'settings', 'memory', 'cpus', 'shmSize', 'quota', 'ttl', 'start'];
    const { from, signal, ...spec } = options(given, [...made, ...MOMENT, 'signal'], 'Branch.create');
    const raw = present({ ...spec, at: text(spec.at), atXid: spec.atXid?.toString() });
    const make = (addon) => addon.Branch.create(rawOf(project, 'project'), raw, rawSource(addon, from));
    return new Branch(await call(make, signal));
  }

  get id() {
    return this[RAW].id;
  }

  get name() {
    return this[RAW].name ?? null;
  }

  get fullName() {
    return this[RAW].fullName;
  }

  get ephemeral() {
    return this[RAW].ephemeral;
  }

  get project() {
    return new Project(this[RAW].project);
  }

  get url() {
    return this[RAW].url;
  }

  get socketUrl() {
    return this[RAW].socketUrl;
  }

  get socketDir() {
    return this[RAW].socketDir;
  }

  get connection() {
    return new Connection(this[RAW].connection);
  }

  get logFile() {
    return this[RAW].logFile;
  }

  get timings() {
    return this[RAW].timings;
  }

  async info(given) {
    return branchInfo(await call(() => this[RAW].info(), signalOf(given, 'info')));
  }

  async usage(given) {
    return call(() => this[RAW].usage(), signalOf(given, 'usage'));
  }

  async outgoing(given) {
    return call(() => this[RAW].outgoing(), signalOf(given, 'outgoing'));
  }

  async snapshot(name, given) {
    return new Snapshot(await call(() => this[RAW].snapshot(name), signalOf(given, 'snapshot')));
  }

  async restorePoint(name, given) {
    return call(() => this[RAW].restorePoint(name), signalOf(given, 'restorePoint'));
  }

  async start(given) {
    await call(() => this[RAW].start(), signalOf(given, 'start'));
  }

  async stop(given) {
    await call(() => this[RAW].stop(), signalOf(given, 'stop'));
  }

  async restart(given) {
    await call(() => this[RAW].restart(), signalOf(given, 'restart'));
  }

  async reset(given) {
    const { snapshot, origin = false, signal } = options(given, ['snapshot', 'origin', 'signal'], 'reset');
    await call(() => this[RAW].reset(snapshot, origin), signal);
  }

  async keep(given) {
    const { name, ttl, signal } = options(given, ['name', 'ttl', 'signal'], 'keep');
    await call(() => this[RAW].keep(name, ttl), signal);
  }

  async protect(isProtected = true, given) {
    await call(() => this[RAW].protect(isProtected), signalOf(given, 'protect'));
  }

  async setTtl(ttl, given) {
    await call(() => this[RAW].setTtl(ttl), signalOf(given, 'setTtl'));
  }

  async close(given) {
    await call(() => this[RAW].close(), signalOf(given, 'close'));
    held.delete(this);
  }

  async delete(given) {
    const { force = false, signal } = options(given, ['force', 'signal'], 'delete');
    await call(() => this[RAW].delete(force), signal);
    held.delete(this);
  }

  [ASYNC_DISPOSE]() {
    return this.close();
  }
}

const held = new Set();

/** Has a branch live until it is closed, whether or not somebody has its handle. */
function hold(branch) {
  held.add(branch);
  return branch;
}

class Snapshot extends Handle {
  get id() {
    return this[RAW].id;
  }

  get name() {
    return this[RAW].name;
  }

  get project() {
    return new Project(this[RAW].project);
  }

  async info() {
    return snapshotInfo(direct(() => this[RAW].info()));
  }

  async usage(given) {
    return call(() => this[RAW].usage(), signalOf(given, 'usage'));
  }

  async delete(given) {
    await call(() => this[RAW].delete(), signalOf(given, 'delete'));
  }
}

class Seed extends Handle {
  get id() {
    return this[RAW].id;
  }

  get key() {
    return this[RAW].key;
  }

  get project() {
    return new Project(this[RAW].project);
  }

  async info() {
    return seedInfo(direct(() => this[RAW].info()));
  }

  async branch(given) {
    return new Branch(await call(() => this[RAW].branch(), signalOf(given, 'branch')));
  }

  async pool(given) {
    return new Pool(await call(() => this[RAW].pool(), signalOf(given, 'pool')));
  }

  async usage(given) {
    return call(() => this[RAW].usage(), signalOf(given, 'usage'));
  }

  async delete(given) {
    await call(() => this[RAW].delete(), signalOf(given, 'delete'));
  }
}

class Pool extends Handle {
  async acquire(given) {
    const { label, signal } = options(given, ['label', 'signal'], 'acquire');
    return new Branch(await call(() => this[RAW].acquire(label), signal));
  }

  async keepReady(least, most, given) {
    await call(() => this[RAW].keepReady(least, most), signalOf(given, 'keepReady'));
  }

  async info(given) {
    return call(() => this[RAW].info(), signalOf(given, 'info'));
  }

  [inspect.custom]() {
    return '<Pool>';
  }
}

class Connection {
  constructor(parts) {
    Object.assign(this, parts);
  }

  // The password is for clients, not for logs.
  [inspect.custom]() {
    return `<Connection ${this.user}@${this.host}:${this.port}/${this.database}>`;
  }
}

function signalOf(given, of) {
  return options(given, ['signal'], of).signal;
}

function rawOf(handle, what) {
  const raw = handle?.[RAW];
  if (raw === undefined) throw invalid(`the ${what} is no handle of Velo's`);
  return raw;
}

/** A moment as text. */
function text(at) {
  // A date of another realm, as in a test runner's, is no instance of this one's class.
  if (typeof at?.toISOString !== 'function') return at;
  if (Number.isNaN(at.getTime())) throw invalid('the date is none');
  return at.toISOString();
}

function rawConfig(config) {
  return config === undefined || config === null ? undefined : rawOf(config, 'config');
}

function rawSource(addon, from) {
  if (from === undefined || from === null) return undefined;
  return typeof from === 'string' ? new addon.Source(from) : rawOf(from, 'source').source();
}

const date = (milliseconds) => (milliseconds === null ? null : new Date(milliseconds));
const cut = (raw) => (raw === null ? null : { ...raw, at: date(raw.at) });
const sourceInfo = (raw) => (raw === null ? null : { ...raw, broughtAt: date(raw.broughtAt) });
const projectInfo = (raw) => ({ ...raw, source: sourceInfo(raw.source), createdAt: date(raw.createdAt) });
const snapshotInfo = (raw) => ({ ...raw, cut: cut(raw.cut), createdAt: date(raw.createdAt) });
const seedInfo = (raw) => ({ ...raw, createdAt: date(raw.createdAt), usedAt: date(raw.usedAt) });
const branchInfo = (raw) => ({
  ...raw,
  createdAt: date(raw.createdAt),
  cut: cut(raw.cut),
  reached: raw.reached === null ? null : {
    ...raw.reached, committedAt: date(raw.reached.committedAt), since: date(raw.reached.since),
  },
  expiresAt: date(raw.expiresAt),
});

module.exports = { BASE, Branch, Config, Connection, Pool, Project, Seed, Snapshot, hold };
