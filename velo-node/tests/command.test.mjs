// The command that comes with the package.

import assert from 'node:assert/strict';
import path from 'node:path';
import { after, before, test } from 'node:test';
import { version } from 'velo-node';
import { HERE, end, gone, project as make, run, start } from './support.mjs';

let project;
before(async () => {
  project = await make();
});
after(end);

const BIN = path.join(HERE, '..', 'node_modules', '.bin', 'velo');
const velo = (...args) => run(BIN, args, { cwd: HERE });

test('it is the command', async () => {
  assert.equal((await run('npx', ['--no-install', 'velo', '--version'], { cwd: HERE })).out, `velo ${version}\n`);
  assert.equal((await velo('branch', 'url', 'api/main')).out.trim(), (await project.main()).url);
  const wrong = await velo('branch', 'get', 'api/nope');
  assert.equal(wrong.code, 1);
  assert.match(wrong.err, /^error: /);
  assert.equal((await velo('nonsense')).code, 2);
  assert.equal((await velo('run', 'api', '--', 'echo', 'said')).out, 'said\n');
});

test('run hands on signals and leaves nothing', async () => {
  const running = start(BIN, ['run', 'api', '--', 'sh', '-c', 'echo ready; exec sleep 600']);
  await running.until(/ready/);
  running.child.kill('SIGTERM');
  const { code, signal } = await running.ended;
  assert.ok(signal === 'SIGTERM' || code === 128 + 15, `${code} ${signal}`);
  await gone();
  assert.deepEqual((await project.branches()).map(({ shown }) => shown), ['main']);
});
