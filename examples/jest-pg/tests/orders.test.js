'use strict';

const { connect } = require('./database.js');
const { open, order, pay } = require('../shop/orders.js');

test('an order is paid', async () => {
  const branch = await velo.branch(); // its own PostgreSQL
  const db = await connect(branch.url);
  const id = await order(db, 'Ann', 1200);
  expect(await open(db)).toEqual([{ name: 'Ann', cents: 1200 }]);
  await pay(db, id);
  expect(await open(db)).toEqual([]);
});

test('of two who pay at once one does', async () => {
  const branch = await velo.branch();
  const [one, other] = await Promise.all([connect(branch.url), connect(branch.url)]);
  const id = await order(one, 'Bob', 500);
  const paid = await Promise.allSettled([pay(one, id), pay(other, id)]);
  expect(paid.map(({ status }) => status).sort()).toEqual(['fulfilled', 'rejected']);
});

test('it is found after the server was restarted', async () => {
  const branch = await velo.branch();
  const before = await connect(branch.url);
  await order(before, 'Ann', 300);
  await before.end();
  await branch.restart();
  expect(await open(await connect(branch.url))).toEqual([{ name: 'Ann', cents: 300 }]);
});
