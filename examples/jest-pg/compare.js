#!/usr/bin/env node
'use strict';
// Runs the same 200 tests by a template database and by Velo, in turn, and prints how long each whole run took.
//
//     VELO_PG_BIN=/usr/lib/postgresql/18/bin node compare.js [ROUNDS]
//
// As a user that is not root, for pg_ctl; COMPARE_FOLDER says where the template's server is, VELO_HOME where Velo works.
// "First" is Velo's run in a project that was just deleted, so that PostgreSQL is set up and the migrations run in it, as
// the other one does in each run.

const { spawnSync } = require('node:child_process');
const os = require('node:os');
const path = require('node:path');
const { Project } = require('velo-node');

const JEST = require.resolve('jest/bin/jest');
const TEMPLATE = ['--config', 'compare/jest.config.js'];
const VELO = ['--testPathPatterns', 'many'];
const RUNS = {
  'template database': [...TEMPLATE, '--runInBand'],
  'Velo, first': [...VELO, '--runInBand'],
  Velo: [...VELO, '--runInBand'],
  'template database, 2 workers': [...TEMPLATE, '--maxWorkers=2'],
  'Velo, 2 workers': [...VELO, '--maxWorkers=2'],
};

const ours = async () => (await Project.list()).filter(({ name }) => name.startsWith(path.basename(__dirname)));

async function deleteProject() {
  for (const { name } of await ours()) await (await Project.open(name)).delete({ force: true });
}

/** @param {string[]} args */
function run(args) {
  const begun = performance.now();
  const said = spawnSync(process.execPath, [JEST, ...args], { cwd: __dirname, encoding: 'utf8' });
  const took = (performance.now() - begun) / 1000;
  if (!said.stderr.includes('200 passed')) throw new Error(said.stdout + said.stderr);
  return took;
}

/** @param {number[]} times */
const median = (times) => [...times].sort((one, other) => one - other)[Math.floor(times.length / 2)];

async function main() {
  const rounds = Number(process.argv[2] ?? 3);
  /** @type {Record<string, number[]>} */
  const took = Object.fromEntries(Object.keys(RUNS).map((name) => [name, []]));
  for (let round = 0; round < rounds; round++) {
    for (const [name, args] of Object.entries(RUNS)) {
      if (name.endsWith('first')) await deleteProject();
      took[name]?.push(run(args));
      console.error(`${name}: ${took[name]?.at(-1)?.toFixed(1)} s`);
    }
  }
  const [project] = await ours();
  await deleteProject();
  console.log(`${os.cpus().length} cores, load ${os.loadavg()[2]?.toFixed(1)}; Node ${process.version}`);
  console.log(`PostgreSQL ${project?.postgres}; Velo on ${project?.storage}\n`);
  console.log(`| seconds, of ${rounds} runs each in turn | median | least to most |\n|---|---|---|`);
  for (const [name, times] of Object.entries(took)) {
    const [least, most] = [Math.min(...times), Math.max(...times)];
    console.log(`| ${name} | ${median(times)?.toFixed(1)} | ${least.toFixed(1)} to ${most.toFixed(1)} |`);
  }
}

main();
