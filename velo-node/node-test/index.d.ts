import type { TestContext } from 'node:test';
import type { Branch, Project, Seed } from '../index.js';

/**
 * A PostgreSQL that begins with what velo.seed.js in the working directory makes; each call gives another one.
 *
 * Given the context of a test it ends with that, and of a test that fails it stays for an hour, with its URL in the
 * report; without one, as in `before`, whoever asks closes it, or it lives to the end of the process.
 */
export function branch(test?: TestContext, options?: { label?: string }): Promise<Branch>;
/** The project of this suite, by the working directory. */
export function project(): Promise<Project>;
/** What branches begin with. */
export function seed(): Promise<Seed>;
