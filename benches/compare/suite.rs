//! Tests that want a branch each.

use std::cell::Cell;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use velo_benches::Result;

use crate::row::Row;
use crate::seed::Seed;

/// So many tests in so long a time, until the last branch was gone.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Done {
    /// How many there were to be: not all have time for as many.
    pub(crate) wanted: usize,
    pub(crate) count: usize,
    pub(crate) seconds: f64,
    /// Of it, until the first test could begin.
    pub(crate) prepared: f64,
}

impl Done {
    pub(crate) fn a_second(&self) -> f64 {
        self.count as f64 / (self.seconds - self.prepared)
    }

    /// Seconds for all of them from end to end, had there been the time.
    pub(crate) fn end_to_end(&self) -> f64 {
        self.prepared + self.wanted as f64 / self.a_second()
    }
}

/// What each of many small tests does.
const SMALL: &str = "CREATE TABLE t (x int); INSERT INTO t SELECT generate_series(1, 100);
    DO $$ BEGIN ASSERT (SELECT count(*) FROM t) = 100; END $$";

/// What the tests of a shop do, in turn. One that meets what another has left fails.
const SHOP: [&str; 10] = [
    // Somebody orders, and pays.
    "INSERT INTO orders (customer) VALUES (7); INSERT INTO items VALUES (2001, 5, 2);
     UPDATE articles SET pieces = pieces - 2 WHERE id = 5; UPDATE orders SET state = 'paid' WHERE id = 2001;
     DO $$ BEGIN ASSERT (SELECT pieces FROM articles WHERE id = 5) = 998; END $$",
    // What is not there cannot be sold.
    "DO $$ BEGIN UPDATE articles SET pieces = pieces - 1001 WHERE id = 1; ASSERT false;
     EXCEPTION WHEN check_violation THEN NULL; END $$",
    // Nobody is there twice.
    "DO $$ BEGIN INSERT INTO customers (email) VALUES ('customer.1@example.com'); ASSERT false;
     EXCEPTION WHEN unique_violation THEN NULL; END $$",
    // What was ordered goes with the order.
    "DELETE FROM orders WHERE id = 1; DO $$ BEGIN ASSERT NOT EXISTS (SELECT FROM items WHERE \"order\" = 1); END $$",
    // The best customers.
    "DO $$ BEGIN ASSERT (SELECT count(*) FROM (SELECT customer, sum(i.pieces * cents) FROM orders o
       JOIN items i ON i.\"order\" = o.id JOIN articles a ON a.id = i.article GROUP BY customer
       ORDER BY 2 DESC LIMIT 10) best) = 10; END $$",
    // A migration.
    "ALTER TABLE customers ADD COLUMN name text NOT NULL DEFAULT ''; CREATE INDEX ON customers (name);
     UPDATE customers SET name = split_part(email, '@', 1);
     DO $$ BEGIN ASSERT (SELECT name FROM customers WHERE id = 3) = 'customer.3'; END $$",
    // Prices go up, and nothing else.
    "UPDATE articles SET cents = cents * 2;
     DO $$ BEGIN ASSERT (SELECT sum(cents) FROM articles) = 2 * (SELECT sum(100 + g) FROM generate_series(1, 200) g);
     END $$",
    // Numbers go on where the seed ended.
    "INSERT INTO orders (customer) SELECT g FROM generate_series(1, 100) g;
     DO $$ BEGIN ASSERT (SELECT max(id) FROM orders) = 2100; END $$",
    // All are sent at once.
    "UPDATE orders SET state = 'sent';
     DO $$ BEGIN ASSERT (SELECT count(*) FROM orders WHERE state = 'sent') = 2000; END $$",
    // A view over it all.
    "CREATE VIEW stock AS SELECT title, pieces FROM articles WHERE pieces > 0; DELETE FROM items; DELETE FROM articles;
     DO $$ BEGIN ASSERT (SELECT count(*) FROM stock) = 0; END $$",
];

/// Small tests, as many at once as there are cores, for this long at most.
pub(crate) async fn many(row: &dyn Row, count: usize, limit: Duration) -> Result<Done> {
    let begun = Instant::now();
    let (wanted, count) = (count, run(row, count, limit, &[SMALL]).await?);
    Ok(Done { wanted, count, seconds: begun.elapsed().as_secs_f64(), prepared: 0.0 })
}

/// The tests of a shop, from the first line of its migration to the end of the last test.
pub(crate) async fn shop(row: &mut dyn Row, count: usize, limit: Duration) -> Result<Done> {
    let begun = Instant::now();
    row.prepare(&Seed::shop()).await?;
    let prepared = begun.elapsed().as_secs_f64();
    let (wanted, count) = (count, run(row, count, limit, &SHOP).await?);
    Ok(Done { wanted, count, seconds: begun.elapsed().as_secs_f64(), prepared })
}

async fn run(row: &dyn Row, count: usize, limit: Duration, tests: &[&str]) -> Result<usize> {
    let at_once = std::thread::available_parallelism()?.get();
    let (begun, next) = (Instant::now(), Cell::new(0));
    let next = &next;
    let runners = (0..at_once).map(|_| async move {
        while next.get() < count && (next.get() < at_once || begun.elapsed() < limit) {
            let number = next.replace(next.get() + 1);
            let test = tests.get(number % tests.len()).copied().unwrap_or_default();
            let instance = row.take().await?;
            let passed = row.run(&instance, test).await;
            let deleted = row.delete(instance).await;
            passed.map_err(|error| format!("test {number}: {error}"))?;
            deleted?;
        }
        Ok::<_, Box<dyn std::error::Error + Send + Sync>>(())
    });
    for ended in join_all(runners).await {
        ended?;
    }
    row.settle().await?;
    Ok(next.get())
}
