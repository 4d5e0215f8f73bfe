//! What every branch begins with: statements, the same for all.

use velo_benches::figures::GB;

/// What PostgreSQL's own catalogs take in a database.
const EMPTY: u64 = 15 << 19;

/// Data of a known size, or a small application's.
#[derive(Debug, Clone)]
pub(crate) struct Seed {
    /// The size of the database, about.
    pub(crate) size: u64,
    /// One by one, for VACUUM stands alone.
    pub(crate) statements: Vec<String>,
}

impl Seed {
    /// A database of about this size: one table of rows of a kilobyte, all of it settled (no hint bit is left to
    /// be set by whoever reads it first), and its key.
    pub(crate) fn sized(size: u64) -> Self {
        // Eight rows to a page of 8 kB, and the index. autovacuum would go on while it is measured.
        let rows = (size.saturating_sub(EMPTY) / 1048).max(100);
        let fill = format!(
            "CREATE TABLE seed WITH (autovacuum_enabled = off) AS
               SELECT g::int AS id, repeat(md5(g::text), 30) AS text FROM generate_series(1, {rows}) g"
        );
        let rest = ["VACUUM (FREEZE, ANALYZE) seed", "ALTER TABLE seed ADD PRIMARY KEY (id)"];
        let statements = [fill].into_iter().chain(rest.map(str::to_owned)).collect();
        Self { size, statements }
    }

    /// What a test suite of a shop needs.
    pub(crate) fn shop() -> Self {
        let statements = [
            "CREATE TABLE customers (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, email text NOT NULL UNIQUE,
               created_at timestamptz NOT NULL DEFAULT now())",
            "CREATE TABLE articles (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, title text NOT NULL,
               cents int NOT NULL CHECK (cents > 0), pieces int NOT NULL CHECK (pieces >= 0))",
            "CREATE TABLE orders (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
               customer int NOT NULL REFERENCES customers, placed_at timestamptz NOT NULL DEFAULT now(),
               state text NOT NULL DEFAULT 'open' CHECK (state IN ('open', 'paid', 'sent')))",
            "CREATE TABLE items (\"order\" int NOT NULL REFERENCES orders ON DELETE CASCADE,
               article int NOT NULL REFERENCES articles, pieces int NOT NULL CHECK (pieces > 0),
               PRIMARY KEY (\"order\", article))",
            "CREATE INDEX ON orders (customer)",
            "CREATE INDEX ON items (article)",
            "INSERT INTO customers (email) SELECT format('customer.%s@example.com', g) FROM generate_series(1, 500) g",
            "INSERT INTO articles (title, cents, pieces)
               SELECT format('article %s', g), 100 + g, 1000 FROM generate_series(1, 200) g",
            "INSERT INTO orders (customer) SELECT 1 + g % 500 FROM generate_series(1, 2000) g",
            "INSERT INTO items SELECT 1 + g % 2000, 1 + g % 199, 1 + g % 3 FROM generate_series(1, 6000) g
               ON CONFLICT DO NOTHING",
            "ANALYZE",
        ];
        Self { size: 10 << 20, statements: statements.map(str::to_owned).to_vec() }
    }

    /// Whether one who loads it anew for each branch is asked for it.
    pub(crate) fn is_small(&self) -> bool {
        self.size <= 100 << 20
    }

    /// Whether copies of it are too dear for more than a few samples.
    pub(crate) fn is_huge(&self) -> bool {
        self.size > 2 * GB
    }

    /// All of it as a script.
    pub(crate) fn script(&self) -> String {
        self.statements.iter().map(|statement| format!("{statement};\n")).collect()
    }
}

/// Changes one row in a hundred, side by side.
pub(crate) const UPDATE: &str = "UPDATE seed SET text = reverse(text) WHERE id <= (SELECT greatest(max(id) / 100, 1) FROM seed)";
