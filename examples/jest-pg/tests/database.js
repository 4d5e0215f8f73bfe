'use strict';
// What the tests connect by.

const { Client } = require('pg');

/** @type {Client[]} */
const open = [];

/** @param {string} url */
async function connect(url) {
  const db = new Client(url);
  open.push(db);
  await db.connect();
  return db;
}

afterEach(async () => {
  await Promise.all(open.splice(0).map((db) => db.end()));
});

module.exports = { connect };
