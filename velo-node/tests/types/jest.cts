// What tests have with the preset, and what a CommonJS file gets.

import { expectTypeOf } from 'expect-type';
import Environment = require('velo-node/jest/environment');
import hooks = require('velo-node/jest');
import setup = require('velo-node/jest/setup');
import teardown = require('velo-node/jest/teardown');
import velo_ = require('velo-node');
import type { JestEnvironment } from '@jest/environment';

expectTypeOf(setup({}, { rootDir: '/' })).resolves.toBeVoid();
expectTypeOf(teardown()).resolves.toBeVoid();

test('it is there', async () => {
  expectTypeOf(await velo.branch()).toEqualTypeOf<velo_.Branch>();
  expectTypeOf(await velo.branch({ label: 'mine' })).toEqualTypeOf<velo_.Branch>();
  expectTypeOf(velo.seed).returns.resolves.toEqualTypeOf<velo_.Seed>();
  expectTypeOf(hooks.branch).toEqualTypeOf<typeof velo.branch>();
});

class Own extends Environment {}
expectTypeOf<Own>().toExtend<JestEnvironment>();
expectTypeOf(Environment.TestEnvironment).toEqualTypeOf<typeof Environment>();
