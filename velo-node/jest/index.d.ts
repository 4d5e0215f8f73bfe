import type { Branch, Project, Seed } from '../index.js';

/** What tests have as `velo` with `preset: 'velo-node/jest'`. */
export interface Velo {
  /**
   * A PostgreSQL of this test's own, which begins with what velo.seed.js makes; each call gives another one. With the
   * preset it ends with the test, or where it was asked for in `beforeAll`, or the file has a `test.concurrent`, with the
   * file; of a test or a file that fails it stays for an hour, and the report has its URL.
   */
  branch(options?: { label?: string }): Promise<Branch>;
  /** The project of this suite, by its root folder. */
  project(): Promise<Project>;
  /** What branches begin with. */
  seed(): Promise<Seed>;
}

/** The same in plain hooks, without the preset: then whoever asks closes it, or it lives to the end of the file. */
export const branch: Velo['branch'];
export const project: Velo['project'];
export const seed: Velo['seed'];

declare global {
  /** With `preset: 'velo-node/jest'`. */
  // eslint-disable-next-line no-var
  var velo: Velo;
}
