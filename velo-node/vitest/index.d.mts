import type { TestAPI } from 'vitest';
import type { Branch, Project, Seed } from '../index.js';

/** What the fixture `velo` gives. */
export interface Velo {
  /** A PostgreSQL of this test's own; each call gives another one. It ends with the test, or stays if that fails. */
  branch(options?: { label?: string }): Promise<Branch>;
  /** The project of this suite, by its root folder. */
  project(): Promise<Project>;
  /** What branches begin with. */
  seed(): Promise<Seed>;
}

/** What tests can take. */
export interface Fixtures {
  /**
   * A PostgreSQL of this test's own, which begins with what velo.seed.js makes. It ends with the test; of one that fails
   * it stays for an hour, and the report has its URL.
   */
  branch: Branch;
  /** As many as a test needs. */
  velo: Velo;
}

/** Vitest's `test` with these fixtures. */
export const test: TestAPI<Fixtures>;
export const it: TestAPI<Fixtures>;
