INSERT INTO "Customer" ("name") VALUES ('Ann'), ('Bob');
