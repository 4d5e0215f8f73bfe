CREATE TABLE users (id bigint PRIMARY KEY, email text NOT NULL, name text);
INSERT INTO users SELECT n, 'user' || n || '@shop.example', 'Name ' || n FROM generate_series(1, 20000) n;
-- What nobody remembers: two accounts of one address.
UPDATE users SET email = 'user1@shop.example' WHERE id = 4711;
CREATE TABLE orders (id bigint PRIMARY KEY, user_id bigint NOT NULL REFERENCES users, total numeric NOT NULL);
INSERT INTO orders SELECT n, 1 + n % 20000, n % 100 FROM generate_series(1, 100000) n;
