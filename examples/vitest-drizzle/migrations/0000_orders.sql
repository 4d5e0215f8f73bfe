CREATE TABLE "customers" (
	"id" integer PRIMARY KEY GENERATED ALWAYS AS IDENTITY,
	"name" text NOT NULL UNIQUE
);
--> statement-breakpoint
CREATE TABLE "orders" (
	"id" integer PRIMARY KEY GENERATED ALWAYS AS IDENTITY,
	"customer" integer NOT NULL REFERENCES "customers"("id"),
	"cents" integer NOT NULL,
	"paid" boolean DEFAULT false NOT NULL
);
