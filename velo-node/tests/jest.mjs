// How the tests of Jest's hooks run Jest.

import assert from 'node:assert/strict';
import { require, run } from './support.mjs';
import { BODY } from './suites.mjs';

export const FILES = 4;
export const JEST = require.resolve('jest/bin/jest');
// A test that a busy machine holds up is none that fails, whose branch would stay.
export const CONFIG = "module.exports = { preset: 'velo-node/jest', testTimeout: 60000 };";
export const jest = (of, args = [], options = {}) =>
  run(process.execPath, [JEST, '--ci', '--colors=false', ...args], { cwd: of.folder, ...options });

/** Files with so many tests altogether. */
export function tests(number, files = FILES) {
  const text = `
const pg = require('pg');
for (let n = 0; n < ${number / files}; n++) {
  test('order ' + n, async () => {
    const branch = await velo.branch();${BODY}
  });
}
`;
  return Object.fromEntries(Array.from({ length: files }, (_, n) => [`orders-${n}.test.js`, text]));
}

export function passed({ code, err, out }, number) {
  assert.match(err, new RegExp(`Tests: +${number} passed, ${number} total`), err + out);
  assert.equal(code, 0, err);
  endsByItself(err);
}

/** Of a run that has ended: it had nothing open. */
export function endsByItself(err) {
  for (const sign of ['did not exit', 'failed to exit', 'open handle', 'not stopped']) assert.ok(!err.includes(sign), err);
}
