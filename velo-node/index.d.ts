/**
 * Git branches for PostgreSQL: a real, seeded database for every test.
 *
 * A {@link Project} is a repository, a {@link Branch} is a complete, isolated PostgreSQL on a copy-on-write clone of its
 * parent's data, a {@link Snapshot} is a commit; a {@link Seed} is data that was prepared once, and a {@link Pool} has
 * branches of it ready.
 *
 * ```js
 * import { Branch, Project } from 'velo-node';
 *
 * const project = await Project.openOrCreate('api');
 * await using branch = await Branch.create(project);
 * const db = new pg.Client(branch.url);
 * ```
 *
 * Every call gives a promise; a `signal` that is aborted ends it, and what it had begun is undone. All times are
 * milliseconds, all sizes bytes. Every error is a {@link VeloError}.
 *
 * @packageDocumentation
 */

/** The version of this package. */
export const version: string;

/** What went wrong, in one word that programs can match on. */
export type ErrorKind =
  | 'invalid_input'
  | 'not_found'
  | 'already_exists'
  | 'conflict'
  | 'incompatible'
  | 'unsupported'
  | 'postgres_missing'
  | 'postgres'
  | 'seed'
  | 'permission_denied'
  | 'exhausted'
  | 'timeout'
  | 'canceled'
  | 'corrupt'
  | 'io'
  | 'internal';

/** What went wrong. One that another copy of this package made is an instance too. */
export class VeloError extends Error {
  constructor(
    message: string,
    more?: { kind?: ErrorKind; hint?: string; context?: Record<string, string>; cause?: unknown },
  );
  readonly name: 'VeloError';
  /** In one word. */
  readonly kind: ErrorKind;
  /** The same as Node writes codes: `VELO_NOT_FOUND`. */
  readonly code: string;
  /** What to do about it, where Velo knows. */
  readonly hint: string | undefined;
  /** What it is about, as pairs. */
  readonly context: Readonly<Record<string, string>>;
  /** What caused it; of one that is canceled the reason of the signal. */
  readonly cause?: unknown;
}

/** What every call takes. */
export interface CallOptions {
  /** Ends the call when it is aborted: it is rejected with the kind `canceled`, and what was begun is undone. */
  signal?: AbortSignal | undefined;
}

/** Settings: what is given here stands over the environment, and that over the settings file. */
export interface Settings {
  /** The folder of all state and data. */
  home?: string;
  /** The folder of PostgreSQLs that were fetched. */
  cache?: string;
  /** The settings file. */
  file?: string;
  /** The storage of new projects. */
  storage?: 'auto' | 'zfs' | 'btrfs' | 'reflink' | 'copy';
  /** The dataset below which ZFS volumes are made. */
  zfsDataset?: string;
  /** Properties of ZFS volumes. */
  zfsProperties?: Record<string, string>;
  /** The runtime of new projects. */
  runtime?: 'auto' | 'process' | 'docker';
  /** The image that new projects run in containers. */
  image?: string;
  /** The most memory that each container of a new project may take: `2G`. */
  memory?: string;
  /** The most processors that each may take. */
  cpus?: number | string;
  /** Its shared memory: `1G`. */
  shmSize?: string;
  /** The folder of the `postgres` that new projects run. */
  pgBin?: string;
  /** Its major version. */
  pgVersion?: number;
  /** The servers' user where Velo is root. */
  user?: string;
  /** The ports of servers on 127.0.0.1: the first and the last. */
  ports?: readonly [first: number, last: number];
  /** Milliseconds until a server must answer. */
  startTimeout?: number;
  /** The most servers of the home that may live at once. */
  maxRunning?: number;
  /** The most memory that they may be given together: `8G`. */
  maxMemory?: string;
  /** Milliseconds that a new server waits for its turn where these are reached. */
  slotTimeout?: number;
  /** The space that a clone must leave free in the home: `10G`. */
  keepFree?: string;
}

/** The settings that everything is done with. */
export class Config {
  constructor(settings?: Settings);
  /** The folder of all state and data. */
  readonly home: string;
  /** The major version of PostgreSQL for new projects, where one was set. */
  readonly pgVersion: number | null;
  /** The storage of new projects. */
  readonly storage: string;
}

/** What something starts from: a name (`main`, `main@before`), or a handle. */
export type Source = string | Branch | Snapshot | Seed;

/** What projects are opened with. */
export interface OpenOptions extends CallOptions {
  /** The settings; those of the environment unless told. */
  config?: Config | undefined;
}

/** What projects are created with. */
export interface CreateProjectOptions extends OpenOptions {
  /** The superuser that URLs name: `postgres` unless told. */
  role?: string | undefined;
  /** Its database: `postgres` unless told. */
  database?: string | undefined;
  /** What `initdb --locale` is given: `C.UTF-8` unless told. */
  locale?: string | undefined;
  /** Whether its branch `main` is left stopped: for suites, whose seeds are cloned from its files. */
  mainStopped?: boolean | undefined;
  /** How long the WAL of its lasting branches is kept, to branch from any moment of it. */
  walRetention?: number | undefined;
}

/** What a seed is known by, and how it is made. */
export interface SeedOptions extends CallOptions {
  /**
   * Makes it: is given a branch of `main`, which is empty unless somebody has worked in it, or one of `from`, and whatever
   * it leaves there is the seed. Where the signal is aborted, the branch goes though this still runs: `signal` tells it.
   */
  build: (branch: Branch, options: CallOptions) => unknown;
  /** Paths, folders or patterns (`migrations/**`, `migrations/**\/*.sql`) whose files it is made of. */
  files?: string | Iterable<string> | undefined;
  /** Any texts that it depends on. */
  texts?: Iterable<string> | undefined;
  /** The code that makes it; unless told the text of `build`, and not what that calls. */
  code?: string | undefined;
  /** What lists call it. */
  label?: string | undefined;
  /** What it starts from, if not from `main`. */
  from?: Source | undefined;
}

/** What a seed of SQL files is known by beside them. */
export interface SeedSqlOptions extends CallOptions {
  /** Any texts that it depends on. */
  texts?: Iterable<string> | undefined;
  /** What lists call it; unless told as the files' folder. */
  label?: string | undefined;
}

/** A repository: branches and snapshots of one PostgreSQL cluster. */
export class Project {
  private constructor();
  /** Opens the project `name`; the kind is `not_found` where there is none. */
  static open(name: string, options?: OpenOptions): Promise<Project>;
  /** Creates it: an empty PostgreSQL cluster, whose branch `main` runs. */
  static create(name: string, options?: CreateProjectOptions): Promise<Project>;
  /** Opens it, or creates it where there is none. Of several processes at once one creates it. */
  static openOrCreate(name: string, options?: CreateProjectOptions): Promise<Project>;
  /** Every project of the home, oldest first. */
  static list(options?: OpenOptions): Promise<ProjectInfo[]>;
  /** Its identity. */
  readonly id: string;
  /** Its name. */
  readonly name: string;
  /** What is known of it. */
  info(): Promise<ProjectInfo>;
  /** Its branch `main`, the root of the tree. */
  main(options?: CallOptions): Promise<Branch>;
  /** The branch of this name; the kind is `not_found` where there is none. */
  branch(name: string, options?: CallOptions): Promise<Branch>;
  /** Every branch, oldest first, ephemeral ones among them. */
  branches(options?: CallOptions): Promise<BranchInfo[]>;
  /** The snapshot `branch@name`, or of `main` by its name alone. */
  snapshot(name: string, options?: CallOptions): Promise<Snapshot>;
  /** Every snapshot, oldest first. */
  snapshots(options?: CallOptions): Promise<SnapshotInfo[]>;
  /**
   * Data that is prepared once: the seed that is known by a hash of `files`, `texts` and `code`.
   *
   * Where there is none, `build` makes it. It is called once for each key, whichever process asks first; the others
   * wait, or take over where it fails or dies. The versions of PostgreSQL and of its extensions count by themselves.
   * What `build` throws is what this is rejected with, and nothing half made is left.
   */
  seed(options: SeedOptions): Promise<Seed>;
  /** The seed that SQL files make, run in the order of their names: a file, a folder, or a pattern. */
  seedSql(files: string, options?: SeedSqlOptions): Promise<Seed>;
  /** Every seed, oldest first, those that are being built among them. */
  seeds(options?: CallOptions): Promise<Seed[]>;
  /** Deletes the seeds that nobody has asked for in so long, but those with branches. What was deleted. */
  pruneSeeds(unusedFor: number, options?: CallOptions): Promise<SeedInfo[]>;
  /**
   * Says for how many milliseconds the WAL of its lasting branches is kept; null is not at all, from now on. The branches
   * whose servers do as they did until they are restarted.
   */
  setWalRetention(time: number | null, options?: CallOptions): Promise<string[]>;
  /** Waits until the files of what was closed and deleted are gone. */
  finishDeletions(options?: CallOptions): Promise<void>;
  /** Deletes it with all that belongs to it; with `force` also what is more than `main`. */
  delete(options?: CallOptions & { force?: boolean | undefined }): Promise<void>;
}

/** What a branch is created with. */
export interface BranchOptions extends CallOptions {
  /** With a name it stays until it is deleted, with PostgreSQL's full durability; without one it is ephemeral. */
  name?: string | undefined;
  /** What it starts from: `main` unless told. */
  from?: Source | undefined;
  /** What lists call an ephemeral one. */
  label?: string | undefined;
  /** PostgreSQL's settings. */
  settings?: Readonly<Record<string, string>> | undefined;
  /** Bytes of memory, for runtimes that can hold to them. */
  memory?: number | undefined;
  /** Processors, for runtimes that can hold to them. */
  cpus?: number | undefined;
  /** Bytes of shared memory, for containers. */
  shmSize?: number | undefined;
  /** Bytes of space, for storages that can hold to them. */
  quota?: number | undefined;
  /** Has one with a name deleted when so many milliseconds are over. */
  ttl?: number | undefined;
  /** `false` starts no server for it. */
  start?: boolean | undefined;
  /**
   * Has it begin with a moment that is over, of which the project keeps the WAL: a date, or a text like `5 minutes ago` or
   * `2026-11-20 14:32:05.5+01`. What was committed exactly then is in it.
   */
  at?: Date | string | undefined;
  /** The same by a position in the WAL: all before it. */
  atLsn?: string | undefined;
  /** The same by a restore point, the last of that name. */
  atName?: string | undefined;
  /** The same by a transaction: as it was when that had just been committed. */
  atXid?: number | bigint | string | undefined;
  /** Leaves out what was committed exactly then, or by that transaction. */
  exclusive?: boolean | undefined;
}

/**
 * A complete, isolated PostgreSQL whose data is a clone of its parent's.
 *
 * An ephemeral branch goes when it is closed, when its last handle was collected, and with this process however that
 * ends. `await using` closes it; a branch with a name stays.
 */
export class Branch implements AsyncDisposable {
  private constructor();
  /** Creates a branch of `main`, or of `from`, and is done when it answers. */
  static create(project: Project, options?: BranchOptions): Promise<Branch>;
  /** Its identity, which it never loses. */
  readonly id: string;
  /** Its name; an ephemeral branch has none. */
  readonly name: string | null;
  /** `project/name`, or `project/~label.id`. */
  readonly fullName: string;
  /** Whether it ends with its holder. */
  readonly ephemeral: boolean;
  /** The project that it belongs to. */
  readonly project: Project;
  /** The URL for clients. It stays the same as long as the branch exists, and holds the password. */
  readonly url: string;
  /** The same over the Unix socket. */
  readonly socketUrl: string;
  /** The folder of its Unix socket. */
  readonly socketDir: string;
  /** The parts of the URL. */
  readonly connection: Connection;
  /** Where its server logs. */
  readonly logFile: string;
  /** How long the last operation with this handle took, by steps. */
  readonly timings: Timings;
  /** What is known of it now. */
  info(options?: CallOptions): Promise<BranchInfo>;
  /** How much space it takes. */
  usage(options?: CallOptions): Promise<Usage>;
  /** What a session in it could still reach out with, such as foreign servers. */
  outgoing(options?: CallOptions): Promise<string[]>;
  /** Takes a snapshot of its present state, while it runs or not. */
  snapshot(name: string, options?: CallOptions): Promise<Snapshot>;
  /** Gives the present moment a name, for `atName`. Of several the last one counts. */
  restorePoint(name: string, options?: CallOptions): Promise<RestorePoint>;
  /** Starts its server, if it does not run. */
  start(options?: CallOptions): Promise<void>;
  /** Stops its server cleanly, if it runs. */
  stop(options?: CallOptions): Promise<void>;
  /** Stops its server and starts it. */
  restart(options?: CallOptions): Promise<void>;
  /**
   * Gives it its parent's present state, under the same URL; or that of a `snapshot` (`main@before`, or the name alone
   * of one of its own), or with `origin` the state that it began with. Whatever comes between, it has the whole old or
   * the whole new data.
   */
  reset(options?: CallOptions & { snapshot?: string | undefined; origin?: boolean | undefined }): Promise<void>;
  /** Has an ephemeral branch stay, under `name` or one made of its label; until `ttl` is over, if there is one. */
  keep(options?: CallOptions & { name?: string | undefined; ttl?: number | undefined }): Promise<void>;
  /** Has it neither deleted nor reset by anybody; its time is never up. `false` takes that back. */
  protect(isProtected?: boolean, options?: CallOptions): Promise<void>;
  /** Has it deleted when so many milliseconds are over, counted from now; null is never. */
  setTtl(ttl: number | null, options?: CallOptions): Promise<void>;
  /** Ends an ephemeral branch, and is done when its server is gone. Any other only loses this handle. */
  close(options?: CallOptions): Promise<void>;
  /** Deletes it; with `force` although it runs, and with all that was made from it. */
  delete(options?: CallOptions & { force?: boolean | undefined }): Promise<void>;
  /** The same as `close`, for `await using`. */
  [Symbol.asyncDispose](): Promise<void>;
}

/** A named, immutable state that branches start from. */
export class Snapshot {
  private constructor();
  /** Its identity. */
  readonly id: string;
  /** Its name, unique among the branch's. */
  readonly name: string;
  /** The project that it belongs to. */
  readonly project: Project;
  /** What is known of it. */
  info(): Promise<SnapshotInfo>;
  /** How much space it takes. */
  usage(options?: CallOptions): Promise<Usage>;
  /** Deletes it. */
  delete(options?: CallOptions): Promise<void>;
}

/** Data that was prepared once, for branches to start from. See {@link Project.seed}. */
export class Seed {
  private constructor();
  /** Its identity. */
  readonly id: string;
  /** The hash that it is known by, in hexadecimal. */
  readonly key: string;
  /** The project that it belongs to. */
  readonly project: Project;
  /** What was known of it when the handle was made. */
  info(): Promise<SeedInfo>;
  /** An ephemeral branch of it, started now. */
  branch(options?: CallOptions): Promise<Branch>;
  /** Branches of it that are started ahead of time: the same ones for all processes of a test run. */
  pool(options?: CallOptions): Promise<Pool>;
  /** How much space it takes. */
  usage(options?: CallOptions): Promise<Usage>;
  /** Deletes it, unless branches were made from it. */
  delete(options?: CallOptions): Promise<void>;
}

/** Branches of a seed that are started ahead of time. What comes back is discarded, and never given to the next. */
export class Pool {
  private constructor();
  /** A branch that is ready, and nobody else's; where none is, one that is started now. */
  acquire(options?: CallOptions & { label?: string | undefined }): Promise<Branch>;
  /** Has so many branches ready at most, and `least` of them from now on. */
  keepReady(least: number, most: number, options?: CallOptions): Promise<void>;
  /** What is known of it now. */
  info(options?: CallOptions): Promise<PoolInfo>;
}

/** The parts of a branch's URL, for clients that take them one by one. */
export class Connection {
  private constructor();
  readonly host: string;
  readonly port: number;
  readonly user: string;
  readonly password: string;
  readonly database: string;
}

/** The moment of its source that a clone holds. */
export interface Cut {
  /** How it was made consistent. */
  readonly method: 'stopped' | 'crashed' | 'checkpoint' | 'wal' | 'backup';
  /** Everything up to here is in it. */
  readonly lsn: string;
  /** The next transaction id at its checkpoint (with its epoch above 32 bits). */
  readonly nextXid: number;
  /** The oldest transaction id that was still running then; 0 if none was. */
  readonly oldestActiveXid: number;
  readonly timeline: number;
  /** When it was made. */
  readonly at: Date;
  /** The cluster's identity. */
  readonly systemIdentifier: string;
  /** The major version of PostgreSQL. */
  readonly major: number;
  /** Whether the source was in recovery. */
  readonly inRecovery: boolean;
}

/** The moment that a branch was recovered to. */
export interface Reached {
  /** Everything in its parent's WAL up to here is in it. */
  readonly lsn: string;
  /** The timeline of that position. */
  readonly timeline: number;
  /** When the last transaction in it was committed; null if none was since the snapshot before it. */
  readonly committedAt: Date | null;
  /** The number of that transaction. */
  readonly lastXid: number | null;
  /** The bytes of WAL that were replayed. */
  readonly replayed: number;
  /** When the snapshot was taken that recovery began with. */
  readonly since: Date;
}

/** A moment of a branch that has a name. */
export interface RestorePoint {
  readonly name: string;
  /** Everything before it is in a branch that begins with it. */
  readonly lsn: string;
}

/** What the data of a project's `main` was brought from. */
export interface SourceInfo {
  /** How it came. */
  readonly method: 'basebackup' | 'dump' | 'files' | 'sql';
  /** Words that name the server, without a password; or a path. */
  readonly from: string;
  /** When it was last brought. */
  readonly broughtAt: Date;
  /** The files that were run on it, in their order. */
  readonly transforms: string[];
  /** The file that it was masked by. */
  readonly masking: string | null;
  /** What is not as it was in the source, in words. */
  readonly notes: string[];
}

/** What is known of a project. */
export interface ProjectInfo {
  readonly id: string;
  readonly name: string;
  /** The storage that its branches really use; never `auto`. */
  readonly storage: string;
  readonly runtime: string;
  /** The version of PostgreSQL that its servers run. */
  readonly postgres: string;
  /** The role that URLs name. */
  readonly role: string;
  /** The database that URLs name. */
  readonly database: string;
  /** For how many milliseconds the WAL of its lasting branches is kept; null is not at all. */
  readonly walRetention: number | null;
  /** What its `main` was brought from; null is an empty cluster. */
  readonly source: SourceInfo | null;
  readonly createdAt: Date;
}

/** What is known of a branch. */
export interface BranchInfo {
  readonly id: string;
  readonly project: string;
  /** An ephemeral branch has none. */
  readonly name: string | null;
  /** What people call it: the name, or for an ephemeral branch `~label.id`. */
  readonly shown: string;
  /** The id of the branch that it hangs from in the tree; `main` has none. */
  readonly parent: string | null;
  readonly parentShown: string | null;
  /** The snapshot that it was made from, if it was made from one. */
  readonly fromSnapshot: string | null;
  /** Whether it ends with its holder. */
  readonly ephemeral: boolean;
  readonly state: 'creating' | 'running' | 'restarting' | 'stopped' | 'resetting' | 'deleting' | 'unknown';
  readonly storage: string;
  readonly runtime: string;
  readonly port: number;
  /** The server's process id, while it runs. */
  readonly pid: number | null;
  readonly createdAt: Date;
  /** The moment of its parent that it began with. */
  readonly cut: Cut | null;
  /** The moment of its parent that was asked for, if one was. */
  readonly reached: Reached | null;
  /** When its time is up; null is never. */
  readonly expiresAt: Date | null;
  /** What keeps it although its time is up. */
  readonly keptBy: string[];
  readonly protected: boolean;
  /** Why it does not do what it ought to, or why nobody can tell what it does, and what helps. */
  readonly problem: string | null;
}

/** What is known of a snapshot. */
export interface SnapshotInfo {
  readonly id: string;
  readonly project: string;
  /** The branch that it was taken of. */
  readonly branch: string;
  readonly name: string;
  /** Whether a schedule took it (`velo snapshot schedule`), so that a retention may remove it. */
  readonly scheduled: boolean;
  /** The moment that it holds. */
  readonly cut: Cut | null;
  readonly createdAt: Date;
}

/** What is known of a seed. */
export interface SeedInfo {
  readonly id: string;
  readonly project: string;
  /** The hash that it is known by, in hexadecimal. */
  readonly key: string;
  readonly label: string | null;
  /** What people call it: its label and the begin of its key. */
  readonly shown: string;
  /** Whether it is whole; else somebody is building it. */
  readonly ready: boolean;
  readonly createdAt: Date;
  /** When somebody last asked for it, to ten minutes. */
  readonly usedAt: Date;
  /** How many branches were made from it that are there. */
  readonly branches: number;
}

/** What is known of a pool. */
export interface PoolInfo {
  /** How many branches wait to be taken. */
  readonly ready: number;
  /** How many are being started. */
  readonly starting: number;
  /** How many are kept ready, as demand is now. */
  readonly wanted: number;
  /** The most that are kept ready. */
  readonly limit: number;
}

/** How much space something takes, in bytes. */
export interface Usage {
  /** What its files occupy, shared or not. */
  readonly referenced: number;
  /** What would become free if only this went. */
  readonly exclusive: number;
  /** What is free on the file system or in the pool. */
  readonly available: number;
}

/** How long an operation and its steps took, in milliseconds. Steps may overlap, so they need not add up to the total. */
export interface Timings {
  readonly total: number;
  readonly steps: { readonly name: string; readonly took: number }[];
}
