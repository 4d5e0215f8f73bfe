import { boolean, integer, pgTable, text } from 'drizzle-orm/pg-core';

export const customers = pgTable('customers', {
  id: integer().primaryKey().generatedAlwaysAsIdentity(),
  name: text().notNull().unique(),
});

export const orders = pgTable('orders', {
  id: integer().primaryKey().generatedAlwaysAsIdentity(),
  customer: integer()
    .notNull()
    .references(() => customers.id),
  cents: integer().notNull(),
  paid: boolean().notNull().default(false),
});
