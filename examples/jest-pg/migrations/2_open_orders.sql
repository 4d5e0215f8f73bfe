CREATE VIEW open_orders AS SELECT name, cents FROM orders JOIN customers ON customers.id = customer WHERE NOT paid;
INSERT INTO customers (name) VALUES ('Ann'), ('Bob');
