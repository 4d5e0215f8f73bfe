//! The attribute `#[velo_core::test]`.

/// A test with a PostgreSQL of its own.
///
/// The function is a test as under `#[test]`, async or not. It takes what it wants to have of a branch that
/// is made for it and goes when it has passed: an async one anything that is
/// [`FromBranch`](crate::FromBranch), such as `Branch` itself, `tokio_postgres::Client` or,
/// with the feature `sqlx-0_8`, `sqlx::PgPool`; any other what is made `From<Branch>`, such as
/// [`velo_core::blocking::Branch`](crate::blocking::Branch).
///
/// ```
/// use velo_core::Branch;
///
/// # fn main() {}
/// #[velo_core::test(seed = "migrations/")]
/// async fn an_order_is_paid(branch: Branch) -> Result<(), tokio_postgres::Error> {
///     let (client, connection) =
///         tokio_postgres::connect(&branch.url(), tokio_postgres::NoTls).await?;
///     tokio::spawn(connection);
///     client.batch_execute("UPDATE orders SET paid = true").await
/// }
/// ```
///
/// | argument | |
/// |---|---|
/// | `seed = "migrations/"` | The data that it begins with, prepared once and shared by all tests with the same: SQL files, from the folder of the package, run in order ([`Project::seed_sql`](crate::Project::seed_sql)). |
/// | `build = path` | An async function that prepares it instead: `async fn path(branch: Branch) -> Result<(), E>`. What `seed` names are then the files that it reads. It is run anew when they change, and for each program: a change of code is never missed. Then what earlier ones built by a function of that name goes, if nobody has used it for a week. |
/// | `project = "name"` | The project, which is made where there is none; unless told, `shop-tests` for a package `shop`, and for each `VELO_PG_VERSION` another (`shop-tests-pg17`). Seeds are built on its `main`: name none that somebody works in by hand. One that was made with another version, image, runtime or storage than the settings ask for is refused. |
///
/// Without `seed` and `build` it begins with what the project's `main` has now, and no branch is ready
/// ahead of time.
///
/// An async test runs on a current-thread runtime of tokio's. A test that fails, by a panic or an error, keeps
/// its branch for an hour and prints its URL and how to go in and to end it; `VELO_KEEP_FAILED` sets another time
/// (`30m`), or `none`. Nothing ends it at that moment: it goes, and its server, with whoever next opens the home after
/// that, a test or a command. At most ten stay in a project, and the next run's go before older ones. Of a test that should panic
/// nothing is kept.
///
/// The attributes of a test, such as `#[ignore]` and `#[should_panic]`, work as ever. What an async test
/// returns is `()` or a `Result`, and so what any other does.
pub use velo_core_macros::test;
