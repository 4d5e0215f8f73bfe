// A shop: it commits, as shops do.

import { eq } from 'drizzle-orm';
import type { NodePgDatabase } from 'drizzle-orm/node-postgres';
import { customers, orders } from './schema.js';

export async function order(db: NodePgDatabase, name: string, cents: number): Promise<number> {
  const [customer] = await db.select().from(customers).where(eq(customers.name, name));
  if (!customer) throw new Error(`there is no customer ${name}`);
  const [made] = await db.insert(orders).values({ customer: customer.id, cents }).returning();
  if (!made) throw new Error('there is no order');
  return made.id;
}

/** Pays an order, once. */
export async function pay(db: NodePgDatabase, id: number): Promise<void> {
  await db.transaction(async (tx) => {
    const [found] = await tx.select().from(orders).where(eq(orders.id, id)).for('update');
    if (found?.paid !== false) throw new Error(`order ${id} is not open`);
    await tx.update(orders).set({ paid: true }).where(eq(orders.id, id));
  });
}

export async function open(db: NodePgDatabase): Promise<{ name: string; cents: number }[]> {
  return db
    .select({ name: customers.name, cents: orders.cents })
    .from(orders)
    .innerJoin(customers, eq(customers.id, orders.customer))
    .where(eq(orders.paid, false))
    .orderBy(customers.name);
}
