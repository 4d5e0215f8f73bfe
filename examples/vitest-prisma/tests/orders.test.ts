import { expect } from 'vitest';
import { open, order, pay } from '../shop/orders.js';
import { test } from './database.js';

test('an order is paid', async ({ db }) => {
  const id = await order(db, 'Ann', 1200);
  expect(await open(db)).toEqual([{ name: 'Ann', cents: 1200 }]);
  await pay(db, id);
  expect(await open(db)).toEqual([]);
});

test('of two who pay at once one does', async ({ db }) => {
  const id = await order(db, 'Bob', 500);
  const paid = await Promise.allSettled([pay(db, id), pay(db, id)]);
  expect(paid.map(({ status }) => status).sort()).toEqual(['fulfilled', 'rejected']);
});

test.for([1, 2, 3])('%i orders are all there are', async (many, { db }) => {
  for (let n = 1; n <= many; n++) expect(await order(db, 'Ann', n)).toBe(n);
  expect((await open(db)).length).toBe(many);
});
