// What goes wrong, and how it is said.

import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import path from 'node:path';
import { after, before, test } from 'node:test';
import { Branch, Config, Project, VeloError } from 'velo-node';
import { HERE, end, home, project as make, require, script } from './support.mjs';

let project;
before(async () => {
  project = await make();
});
after(end);

test('an error says what it is, and what to do', async () => {
  const error = await Project.open('nope').catch((thrown) => thrown);
  assert.ok(error instanceof VeloError && error instanceof Error);
  assert.deepEqual(
    [error.name, error.kind, error.code, error.hint],
    ['VeloError', 'not_found', 'VELO_NOT_FOUND', 'create it: velo project create nope'],
  );
  assert.ok('home' in error.context);
  assert.match(error.stack, /errors\.test\.mjs/, 'who called it');
});

test('a cause is the cause', async () => {
  assert.throws(
    () => new Config({ file: path.join(home, 'is-not-there.toml') }),
    (error) => error instanceof VeloError && error.cause instanceof Error,
  );
});

test('whoever writes the wrong thing is told', async () => {
  const invalid = { name: 'VeloError', kind: 'invalid_input' };
  await assert.rejects(Branch.create(project, { name: 'no such name' }), invalid);
  await assert.rejects(Branch.create(project, { colour: 'red' }), { ...invalid, message: /no option colour/ });
  await assert.rejects(Branch.create(project, { memory: 1.5 }), invalid);
  await assert.rejects(Branch.create(project, { name: 'x', ttl: -1 }), invalid);
  await assert.rejects(Branch.create({}), { ...invalid, message: /no handle/ });
  await assert.rejects(Branch.create(project, { from: 7 }), invalid);
  await assert.rejects(Branch.create(project, { signal: 'now' }), { ...invalid, message: /AbortSignal/ });
  await assert.rejects(Project.open(7), invalid);
  await assert.rejects(Project.open('api', { config: {} }), invalid);
  await assert.rejects(Project.create('api'), { kind: 'already_exists' });
  await assert.rejects(project.seed({}), invalid);
  assert.throws(() => new Config({ storage: 'floppy' }), invalid);
  assert.throws(() => new Config({ colour: 'red' }), { ...invalid, message: 'Config has no option colour' });
  assert.throws(() => new Config({ ports: [1] }), invalid);
  for (const wrong of [{ maxRunning: 1.5 }, { maxRunning: -1 }, { maxRunning: '3' }, { pgVersion: 15.4 }, { ports: [1.5, 2] }]) {
    assert.throws(() => new Config(wrong), { ...invalid, message: /is a whole number, and .+ is none$/ });
  }
});

test('every kind of the core is in the types', () => {
  const core = readFileSync(path.join(process.env.VELO_TEST_CHECKOUT, 'velo-core/src/error.rs'), 'utf8');
  const kinds = [...core.matchAll(/Self::\w+ => "(\w+)"/g)].map(([, kind]) => kind);
  assert.equal(kinds.length, 16);
  const types = readFileSync(require.resolve('velo-node/package.json').replace('package.json', 'index.d.ts'), 'utf8');
  const [, listed] = /export type ErrorKind =([^;]+);/.exec(types);
  assert.deepEqual([...listed.matchAll(/'(\w+)'/g)].map(([, kind]) => kind), kinds);
});

test('an unsupported platform is told at the first call, not when it is loaded', async () => {
  const said = await script(`
    Object.defineProperty(process, 'arch', { value: 'mips' });
    const velo = await import('velo-node');
    const error = await velo.Project.list().catch((thrown) => thrown);
    console.log(error.kind, error.message);
  `).ended;
  assert.match(said.out, /^unsupported unsupported platform: linux-mips-gnu\n$/, said.err);
  const { platformOf } = require(path.join(path.dirname(require.resolve('velo-node')), 'lib/addon.js'));
  const report = { getReport: () => ({ header: {} }) };
  assert.equal(platformOf({ platform: 'linux', arch: 'arm64', report }), 'linux-arm64-musl');
  assert.equal(platformOf({ platform: 'darwin', arch: 'arm64' }), 'darwin-arm64');
});

test('a platform whose package is missing is told too', async () => {
  const said = await script(
    `
    Object.defineProperty(process, 'arch', { value: 'arm64' });
    const velo = await import('velo-node');
    const error = await velo.Project.list().catch((thrown) => thrown);
    console.log(error.kind, error.hint);
  `,
    { cwd: HERE },
  ).ended;
  assert.match(said.out, /^not_found install velo-node with its optional dependencies/, said.err);
});
