// What Vitest's tests take.

import { expectTypeOf } from 'expect-type';
import { test as plain } from 'node:test';
import type { Branch } from 'velo-node';
import { branch as own } from 'velo-node/node-test';
import { test } from 'velo-node/vitest';

test('it is there', async ({ branch, velo }) => {
  expectTypeOf(branch).toEqualTypeOf<Branch>();
  expectTypeOf(await velo.branch()).toEqualTypeOf<Branch>();
});

plain('it is there too', async (t) => {
  expectTypeOf(await own(t)).toEqualTypeOf<Branch>();
});
