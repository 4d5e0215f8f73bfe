CREATE TABLE stock (article text PRIMARY KEY, pieces int NOT NULL CHECK (pieces >= 0));
INSERT INTO stock SELECT 'article ' || n, 10 FROM generate_series(1, 1000) n;
