'use strict';
// A shop: it commits, as shops do.

/** @import { Client } from 'pg' */

/**
 * @param {Client} db
 * @param {string} customer
 * @param {number} cents
 * @returns {Promise<number>} the order's number
 */
async function order(db, customer, cents) {
  const { rows } = await db.query(
    'INSERT INTO orders (customer, cents) SELECT id, $2 FROM customers WHERE name = $1 RETURNING id',
    [customer, cents],
  );
  if (rows.length === 0) throw new Error(`there is no customer ${customer}`);
  return rows[0].id;
}

/**
 * Pays an order, once.
 *
 * @param {Client} db
 * @param {number} id
 */
async function pay(db, id) {
  await db.query('BEGIN');
  try {
    const { rows } = await db.query('SELECT paid FROM orders WHERE id = $1 FOR UPDATE', [id]);
    if (rows[0]?.paid !== false) throw new Error(`order ${id} is not open`);
    await db.query('UPDATE orders SET paid = true WHERE id = $1', [id]);
    await db.query('COMMIT');
  } catch (error) {
    await db.query('ROLLBACK');
    throw error;
  }
}

/**
 * @param {Client} db
 * @returns {Promise<{ name: string, cents: number }[]>}
 */
async function open(db) {
  return (await db.query('SELECT name, cents FROM open_orders ORDER BY name')).rows;
}

module.exports = { open, order, pay };
