'use strict';
// A database for each test, copied from the template and dropped after it.

const { Client } = require('pg');

const folder = process.env.COMPARE_SERVER ?? '';
let number = 0;
/** @type {string[]} */
const made = [];

/** @param {string} text */
async function onServer(text) {
  const db = new Client({ host: folder, user: 'postgres', database: 'postgres' });
  await db.connect();
  await db.query(text);
  await db.end();
}

async function copy() {
  const name = `test_${process.pid}_${(number += 1)}`;
  await onServer(`CREATE DATABASE ${name} TEMPLATE shop`);
  made.push(name);
  return `postgresql://postgres@/${name}?host=${encodeURIComponent(folder)}`;
}

afterEach(async () => {
  for (const name of made.splice(0)) await onServer(`DROP DATABASE ${name} WITH (FORCE)`);
});

module.exports = { copy };
