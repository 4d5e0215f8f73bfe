import type { TestProject } from 'vitest/node';

/** For `globalSetup`. */
export default function setup(project: TestProject): Promise<() => Promise<void>>;

declare module 'vitest' {
  interface ProvidedContext {
    velo: { root: string };
  }
}
