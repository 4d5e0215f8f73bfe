// A shop: it commits, as shops do.

import type { PrismaClient } from '../generated/client.js';

export async function order(db: PrismaClient, name: string, cents: number): Promise<number> {
  const { id } = await db.order.create({ data: { cents, customer: { connect: { name } } } });
  return id;
}

/** Pays an order, once. */
export async function pay(db: PrismaClient, id: number): Promise<void> {
  const { count } = await db.order.updateMany({ where: { id, paid: false }, data: { paid: true } });
  if (count === 0) throw new Error(`order ${id} is not open`);
}

export async function open(db: PrismaClient): Promise<{ name: string; cents: number }[]> {
  const orders = await db.order.findMany({ where: { paid: false }, include: { customer: true }, orderBy: { id: 'asc' } });
  return orders.map(({ customer, cents }) => ({ name: customer.name, cents }));
}
