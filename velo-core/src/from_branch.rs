//! [`FromBranch`]: what a test can take.

use crate::branch::Branch;

/// What an async test under [`#[velo_core::test]`](crate::test) can take: something that is made from the
/// branch that the test has.
///
/// ```
/// use velo_core::{Branch, FromBranch};
///
/// struct Server { url: String }
///
/// impl FromBranch for Server {
///     type Error = std::convert::Infallible;
///
///     async fn from_branch(branch: &Branch) -> Result<Self, Self::Error> {
///         Ok(Self { url: branch.url() })
///     }
/// }
/// ```
#[diagnostic::on_unimplemented(
    message = "a test cannot take a `{Self}`: it is not `FromBranch`",
    note = "an async test takes `velo_core::Branch`, `tokio_postgres::Client`, with the feature `sqlx-0_8` of \
            velo-core `sqlx::PgPool`, or what you implement `FromBranch` for"
)]
pub trait FromBranch: Sized {
    /// Why it cannot be made.
    type Error: std::fmt::Display;

    /// Makes it. Called on the runtime that the test runs on.
    ///
    /// # Errors
    /// If it cannot be made; then the test fails.
    fn from_branch(branch: &Branch) -> impl Future<Output = Result<Self, Self::Error>>;
}

impl FromBranch for Branch {
    type Error = std::convert::Infallible;

    async fn from_branch(branch: &Branch) -> Result<Self, Self::Error> {
        Ok(branch.clone())
    }
}

/// A connection, which ends with the test's runtime.
impl FromBranch for tokio_postgres::Client {
    type Error = tokio_postgres::Error;

    async fn from_branch(branch: &Branch) -> Result<Self, Self::Error> {
        let (client, connection) =
            tokio_postgres::connect(&branch.url(), tokio_postgres::NoTls).await?;
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "the connection of a test has ended");
            }
        });
        Ok(client)
    }
}

#[cfg(feature = "sqlx-0_8")]
impl FromBranch for sqlx::PgPool {
    type Error = sqlx::Error;

    async fn from_branch(branch: &Branch) -> Result<Self, Self::Error> {
        Self::connect(&branch.url()).await
    }
}

#[cfg(feature = "sqlx-0_8")]
impl FromBranch for sqlx::PgConnection {
    type Error = sqlx::Error;

    async fn from_branch(branch: &Branch) -> Result<Self, Self::Error> {
        <Self as sqlx::Connection>::connect(&branch.url()).await
    }
}
