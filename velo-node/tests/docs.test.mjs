// What people read: the types, the texts, and the table of what is where.

import assert from 'node:assert/strict';
import { readFileSync, readdirSync } from 'node:fs';
import path from 'node:path';
import { test } from 'node:test';
import * as velo from 'velo-node';
import { HERE, require, run } from './support.mjs';

const CHECKOUT = process.env.VELO_TEST_CHECKOUT;
const CORE = path.join(CHECKOUT, 'velo-core/src');
const { platformOf } = require(path.join(path.dirname(require.resolve('velo-node')), 'lib/addon.js'));
const ADDON = platformOf(process);
const read = (...parts) => readFileSync(path.join(...parts), 'utf8');
const types = read(path.dirname(require.resolve('velo-node/package.json')), 'index.d.ts');

/** The table: what Rust has, and what it is called here. */
function table() {
  const rows = new Map();
  for (const line of read(CHECKOUT, 'velo-node/parity.md').split('\n')) {
    const cells = line.split('|').slice(1, -1).map((cell) => cell.trim());
    if (cells.length === 3 && cells[0].startsWith('`')) rows.set(cells[0].replaceAll('`', ''), cells[1]);
  }
  return rows;
}

test("the table has all of Rust's", () => {
  const faces = 'Project ProjectBuilder Branch Snapshot Seed Pool BranchSpec SeedKey ConfigBuilder'.split(' ');
  // There the same is blocking.
  const shown = (file) => file.endsWith('.rs') && !file.startsWith('blocking');
  const files = readdirSync(CORE, { recursive: true }).filter(shown);
  const rows = table();
  const found = [];
  for (const source of files.map((file) => read(CORE, file))) {
    for (const [, name, block] of source.matchAll(/^impl (\w+) \{\n(.*?)^\}/gms)) {
      if (!faces.includes(name)) continue;
      const text = block.replace(/#\[doc\(hidden\)\]\s+pub (async )?fn/g, '');
      for (const [, method] of text.matchAll(/^ {4}pub (?:async )?fn (\w+)/gm)) {
        found.push(`${name}::${method}`);
      }
    }
  }
  assert.ok(faces.every((face) => found.some((name) => name.startsWith(`${face}::`))));
  assert.deepEqual(found.filter((name) => !rows.has(name)), []);
  assert.ok(rows.size > 80);
});

test('the table is true of JavaScript, and of its types', () => {
  const wrong = [];
  for (const [rust, here] of table()) {
    if (here.startsWith('no: ')) continue;
    const names = [...here.matchAll(/`([\w.]+)(?:\(([\w.]+)\))?`/g)];
    if (names.length === 0) wrong.push(`${rust}: ${here}`);
    for (const [, name, argument] of names) {
      const [face, member] = name.split('.');
      const made = velo[face];
      const has = made && (!member || member in made || member in made.prototype);
      if (!has) wrong.push(`${rust}: there is no ${name}`);
      const declared = member ? new RegExp(`^ {2}(static |readonly )?${member}\\b`, 'm') : new RegExp(`class ${face}\\b`);
      if (!declared.test(types)) wrong.push(`${rust}: ${name} has no type`);
      if (argument && !new RegExp(`\\b${argument}\\??: `).test(types)) wrong.push(`${rust}: there is no ${argument}`);
    }
  }
  assert.deepEqual(wrong, []);
});

test('every public name says what it is', () => {
  const lines = types.split('\n');
  const silent = lines.filter(
    (line, at) =>
      /^export (class|interface|type|const) |^ {2}(static )?\w+\(/.test(line) &&
      !/constructor/.test(line) &&
      !/\*\/\s*$/.test(lines[at - 1]),
  );
  assert.deepEqual(silent, []);
});

test('what is packed has its licences, and a text that needs no repository', () => {
  const folder = path.dirname(require.resolve('velo-node/package.json'));
  for (const name of ['LICENSE-APACHE', 'LICENSE-MIT']) {
    assert.equal(read(folder, name), read(CHECKOUT, name));
    assert.equal(read(path.dirname(require.resolve(`velo-node-${ADDON}/package.json`)), name), read(CHECKOUT, name));
  }
  // Where packages are shown, a link into the repository leads nowhere.
  const links = [...read(folder, 'README.md').matchAll(/\]\(([^)]+)\)/g)].map(([, to]) => to);
  assert.deepEqual(links.filter((to) => !/^(https:|#)/.test(to)), []);
});

test('what an example connects it ends', () => {
  const text = read(path.dirname(require.resolve('velo-node/package.json')), 'README.md');
  const connects = [...text.matchAll(/^```js\n(.*?)^```/gms)].map(([, code]) => code).filter((code) => /\.connect\(\)/.test(code));
  assert.equal(connects.length, 3);
  assert.deepEqual(connects.filter((code) => !/\.end\(\)/.test(code)), []);
});

test('all versions are one', () => {
  const [, version] = /^version = "(.+)"$/m.exec(read(CHECKOUT, 'Cargo.toml'));
  const main = JSON.parse(read(CHECKOUT, 'velo-node/package.json'));
  const platforms = readdirSync(path.join(CHECKOUT, 'velo-node/npm'));
  assert.deepEqual(
    main.optionalDependencies,
    Object.fromEntries(platforms.sort().map((name) => [`velo-node-${name}`, version])),
  );
  for (const name of platforms) {
    const one = JSON.parse(read(CHECKOUT, 'velo-node/npm', name, 'package.json'));
    assert.deepEqual([one.name, one.version], [`velo-node-${name}`, version]);
    assert.deepEqual(one.engines, main.engines);
  }
  assert.equal(main.version, version);
  // What tells whether a test of node:test has failed is there from then on.
  assert.deepEqual(main.engines, { node: '>=20.12' });
  assert.equal(velo.version, version);
});

test('types', async () => {
  const tsc = require.resolve('typescript/bin/tsc');
  const said = await run(process.execPath, [tsc, '-p', path.join(HERE, 'types')], { cwd: HERE });
  assert.deepEqual([said.code, said.out], [0, ''], said.err);
});
