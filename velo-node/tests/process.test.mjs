// One process: loaded again and again, in threads that end, and how it ends itself.

import assert from 'node:assert/strict';
import { mkdtempSync, readdirSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { after, before, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { Worker } from 'node:worker_threads';
import { HERE, SOON, end, gone, left, lives, project as make, run, script, within } from './support.mjs';

let project;
before(async () => {
  project = await make();
});
after(end);

const THREAD = `
  const { parentPort } = require('node:worker_threads');
  const { Branch, Project } = require('velo-node');
  (async () => {
    const project = await Project.open('api');
    parentPort.postMessage('ready');
    for (;;) await (await Branch.create(project)).close();
  })();
`;

test('it is loaded 50 times in one process', async () => {
  const said = await script(`
    import { createRequire } from 'node:module';
    import { readFileSync } from 'node:fs';
    const require = createRequire(process.cwd() + '/x');
    const threads = () => readFileSync('/proc/self/status', 'utf8').match(/Threads:\\t(\\d+)/)[1];
    let before;
    for (let time = 0; time < 50; time++) {
      for (const file of Object.keys(require.cache)) delete require.cache[file];
      const { Branch, Project, VeloError } = require('velo-node');
      const project = await Project.open('api');
      if (time % 10 === 0) await (await Branch.create(project)).close();
      const error = await Project.open('nope').catch((thrown) => thrown);
      if (!(error instanceof VeloError)) throw error;
      if (time === 10) before = threads();
    }
    // One engine, however often it is loaded.
    const engines = (await import('node:fs')).readdirSync('/proc/self/task').filter(
      (task) => readFileSync('/proc/self/task/' + task + '/comm', 'utf8').trim() === 'velo-engine');
    console.log('engines', engines.length);
  `).ended;
  assert.deepEqual([said.code, said.out], [0, 'engines 1\n'], said.err);
});

test('threads that end at random moments leave nothing', async () => {
  const threads = [];
  for (let number = 0; number < 8; number++) {
    const worker = new Worker(THREAD, { eval: true });
    const ended = new Promise((resolve, reject) => {
      worker.once('error', reject);
      worker.once('exit', resolve);
    });
    threads.push(
      (async () => {
        await new Promise((resolve) => worker.once('message', resolve));
        await sleep(Math.random() * 150);
        await worker.terminate();
        await ended;
      })(),
    );
  }
  await Promise.all(threads);
  await gone();
  await left(project, 'main');
});

test('a thread alone has it, and the process lives on after it', async () => {
  const said = await script(`
    import { Worker } from 'node:worker_threads';
    for (let time = 0; time < 5; time++) {
      const worker = new Worker(${JSON.stringify(THREAD)}, { eval: true, execArgv: [] });
      await new Promise((resolve) => worker.once('message', resolve));
      await new Promise((resolve) => setTimeout(resolve, 20 * time));
      await worker.terminate();
    }
    console.log('alive');
  `).ended;
  assert.deepEqual([said.code, said.out], [0, 'alive\n'], said.err);
  await gone();
});

test('nothing keeps Node from exiting', async () => {
  const said = await script(`
    import { Branch, Project } from 'velo-node';
    const project = await Project.open('api');
    globalThis.branch = await Branch.create(project);
    globalThis.pool = await (await project.seed({ build() {}, code: 'exit' })).pool();
    const mine = process.getActiveResourcesInfo().filter((name) => /napi|velo/i.test(name));
    console.log((await globalThis.branch.info()).pid, mine.length);
  `).ended;
  const [pid, open] = said.out.trim().split(' ').map(Number);
  assert.deepEqual([said.code, open], [0, 0], said.err);
  assert.ok(await within(SOON, () => !lives(pid)));
});

test('a call that is open keeps it', async () => {
  const said = await script(`
    import { Branch, Project } from 'velo-node';
    Project.open('api').then((project) => Branch.create(project)).then((branch) => branch.close()).then(() => console.log('done'));
  `).ended;
  assert.equal(said.out, 'done\n', said.err);
});

test('a killed process leaves no server', async () => {
  const said = script(`
    import { Branch, Project } from 'velo-node';
    globalThis.branch = await Branch.create(await Project.open('api'));
    console.log('pid', (await globalThis.branch.info()).pid);
    setInterval(() => {}, 1000);
  `);
  const [, pid] = await said.until(/pid (\d+)/);
  said.child.kill('SIGKILL');
  await said.ended;
  assert.ok(await within(SOON, () => !lives(Number(pid))));
});

test("Velo's programs and Node's own children end side by side", async () => {
  const said = await script(`
    import { execFile } from 'node:child_process';
    import { promisify } from 'node:util';
    import { Branch, Project } from 'velo-node';
    const run = promisify(execFile);
    const project = await Project.open('api');
    for (let time = 0; time < 3; time++) {
      const [branch] = await Promise.all([Branch.create(project), run('true'), run('sleep', ['0.05'])]);
      await Promise.all([branch.restart(), run('true')]);
      await branch.close();
    }
    console.log('done');
  `).ended;
  assert.deepEqual([said.code, said.out], [0, 'done\n'], said.err);
});

test('a coverage of the tests has nothing of the keeper', async () => {
  const folder = mkdtempSync(path.join(tmpdir(), 'velo-coverage-'));
  const text = `
    import { Project } from 'velo-node';
    const project = await Project.open('api');
    const pool = await (await project.seed({ build() {}, code: 'coverage' })).pool();
    await (await pool.acquire()).close();
    console.log(process.pid);
  `;
  // The shell is the root of the run, with which its keeper ends.
  const said = await run('sh', ['-c', '"$0" --input-type=module -e "$1"; :', process.execPath, text], {
    cwd: HERE,
    env: { ...process.env, NODE_V8_COVERAGE: folder, VELO_RUN: 'coverage' },
  });
  assert.match(said.out, /^\d+\n$/, said.err);
  await gone();
  assert.deepEqual(readdirSync(folder).map((name) => name.split('-')[1]), [said.out.trim()]);
  rmSync(folder, { recursive: true });
});
