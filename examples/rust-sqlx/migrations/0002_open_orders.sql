CREATE INDEX open_orders ON orders (customer) WHERE NOT paid;
