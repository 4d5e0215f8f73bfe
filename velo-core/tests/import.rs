//! Real data brought in, from real servers: after each method source and project agree in every row and in what
//! `pg_dump -s` prints of them; and what goes wrong leaves nothing.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
#![allow(unreachable_pub, clippy::disallowed_methods, clippy::print_stdout)]

mod common;

#[path = "import/cable.rs"]
mod cable;
#[path = "import/checks.rs"]
mod checks;
#[path = "import/data.rs"]
mod data;
#[path = "import/disk.rs"]
mod disk;
#[path = "import/faults.rs"]
mod faults;
#[path = "import/follow.rs"]
mod follow;
#[path = "import/guards.rs"]
mod guards;
#[path = "import/masks.rs"]
mod masks;
#[path = "import/methods.rs"]
mod methods;
#[path = "import/pgbench.rs"]
mod pgbench;
#[path = "import/refresh.rs"]
mod refresh;
#[path = "import/secrets.rs"]
mod secrets;
#[path = "import/server.rs"]
mod server;
#[path = "import/traces.rs"]
mod traces;
