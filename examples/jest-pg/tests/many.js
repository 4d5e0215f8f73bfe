'use strict';
// 200 small tests that each write, whoever gives them their database.

const { connect } = require('./database.js');
const { open, order, pay } = require('../shop/orders.js');

/** @param {() => Promise<string>} url */
function many(url) {
  for (let n = 1; n <= 50; n++) {
    test(`${n} orders are all there are`, async () => {
      const db = await connect(await url());
      const id = await order(db, 'Ann', n);
      await order(db, 'Bob', n);
      await pay(db, id);
      expect(await open(db)).toEqual([{ name: 'Bob', cents: n }]);
      expect(id).toBe(1);
    });
  }
}

module.exports = { many };
