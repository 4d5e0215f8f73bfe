#!/usr/bin/env node
'use strict';
// Runs the same 200 tests by a template database and by Velo, in turn, and prints how long each whole run took.
//
//     VELO_PG_BIN=/usr/lib/postgresql/18/bin npm run compare [ROUNDS]
//
// As a user that is not root, for pg_ctl, and with a python3; COMPARE_FOLDER says where the template's server is, VELO_HOME
// where Velo works. "First" is Velo's run in a project that was just deleted, so that PostgreSQL is set up and the migrations
// run in it, as the other one does in each run. Processor time is that of all processes of a run, servers too, and scatters
// less on a machine that is busy.

const { execFileSync, spawnSync } = require('node:child_process');
const os = require('node:os');
const path = require('node:path');
const { Project, version } = require('velo-node');

const JEST = require.resolve('jest/bin/jest');
const MEASURE = path.join(__dirname, 'compare/measure.py');
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

/**
 * How long it took, and how much processor time.
 * @param {string[]} args
 */
function run(args) {
  const said = spawnSync('python3', [MEASURE, process.execPath, JEST, ...args], { cwd: __dirname, encoding: 'utf8' });
  if (said.error) throw said.error;
  if (!said.stderr.includes('200 passed')) throw new Error(said.stdout + said.stderr);
  const [took = NaN, used = NaN] = (said.stdout.trim().split('\n').at(-1) ?? '').split(' ').map(Number);
  return { took, used };
}

/** @param {number[]} times */
function median(times) {
  const [low = NaN, high = low] = [...times].sort((one, other) => one - other).slice((times.length - 1) / 2);
  return times.length % 2 ? low : (low + high) / 2;
}

async function main() {
  const rounds = Number(process.argv[2] ?? 3);
  /** @type {Record<string, { took: number, used: number }[]>} */
  const runs = Object.fromEntries(Object.keys(RUNS).map((name) => [name, []]));
  for (let round = 0; round < rounds; round++) {
    for (const [name, args] of Object.entries(RUNS)) {
      if (name.endsWith('first')) await deleteProject();
      const { took, used } = run(args);
      runs[name]?.push({ took, used });
      console.error(`${name}: ${took.toFixed(1)} s, processor ${used.toFixed(1)} s`);
    }
  }
  const [project] = await ours();
  await deleteProject();
  const postgres = execFileSync(path.join(process.env.VELO_PG_BIN ?? '', 'postgres'), ['--version'], { encoding: 'utf8' });
  const versions = ['jest', 'pg'].map((name) => `${name} ${require(`${name}/package.json`).version}`);
  const [cpu] = os.cpus();
  console.log(`${new Date().toISOString().slice(0, 10)}; ${os.cpus().length} cores (${cpu?.model}), Linux ${os.release()}`);
  console.log(`load ${os.loadavg()[2]?.toFixed(1)}; ${postgres.trim()}; Velo on ${project?.storage}`);
  console.log(`Node ${process.version}, velo-node ${version}, ${versions.join(', ')}\n`);
  console.log(`| seconds, of ${rounds} runs each in turn | median | least to most | processor, median |\n|---|---|---|---|`);
  for (const [name, of] of Object.entries(runs)) {
    const times = of.map(({ took }) => took);
    const spread = `${Math.min(...times).toFixed(1)} to ${Math.max(...times).toFixed(1)}`;
    const processor = median(of.map(({ used }) => used)).toFixed(1);
    console.log(`| ${name} | ${median(times).toFixed(1)} | ${spread} | ${processor} |`);
  }
}

main();
