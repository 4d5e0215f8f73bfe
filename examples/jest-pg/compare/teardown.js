'use strict';

const { execFileSync } = require('node:child_process');
const { rmSync } = require('node:fs');
const path = require('node:path');

module.exports = () => {
  const folder = process.env.COMPARE_SERVER ?? '';
  const bin = process.env.VELO_PG_BIN ?? '';
  execFileSync(path.join(bin, 'pg_ctl'), ['-D', path.join(folder, 'data'), '-m', 'immediate', 'stop'], { stdio: 'ignore' });
  rmSync(folder, { recursive: true });
};
