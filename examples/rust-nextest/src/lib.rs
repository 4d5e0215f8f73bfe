//! Many tests, each in a process of its own, as cargo-nextest runs them: see `tests/stock.rs`.
