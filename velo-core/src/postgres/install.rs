//! Fetching a PostgreSQL where there is none.
