//! Images: whether one is there, what it says of itself, and pulling it.

use std::path::{Path, PathBuf};

use bollard::query_parameters as query;
use futures_util::StreamExt;

use super::connect::Engine;
use super::errors::{Refusal, failed, refusal};
use super::{container, tool};
use crate::cancel::Cancel;
use crate::error::{Error, ErrorKind, Result};
use crate::postgres::binaries::check_supported;
use crate::postgres::{Image, Installation, Libc, Source, Version};

/// How long an image may take to say what it is.
const LOOK: std::time::Duration = std::time::Duration::from_secs(600);

/// Asked of an image once. The folder must hold `initdb` too: Debian's `postgres` is not on every
/// PATH, and a wrapper's folder is not the programs'. The loader that the program names tells its C
/// library.
const QUESTIONS: &str = r#"
for dir in "$(dirname "$(command -v postgres || echo /)")" /usr/local/bin /usr/local/pgsql/bin \
    /usr/lib/postgresql/*/bin /usr/pgsql-*/bin /usr/libexec/postgresql* /opt/*/postgresql/bin /usr/bin; do
    if [ -x "$dir/postgres" ] && [ -x "$dir/initdb" ]; then bin=$dir; break; fi
done
[ -n "$bin" ] || { echo "it has no postgres and initdb" >&2; exit 1; }
echo "bin=$bin"
echo "version=$("$bin/postgres" --version)"
echo "uid=$(id -u postgres)"
echo "gid=$(id -g postgres)"
grep -q ld-musl- "$bin/postgres"
case $? in
0)
    echo libc=musl
    for loader in /lib/ld-musl-*; do "$loader" 2>&1; done | while read -r word version; do
        [ "$word" != Version ] || echo "libc_version=$version"
    done
    ;;
1)
    version=$(getconf GNU_LIBC_VERSION 2>/dev/null)
    echo libc=glibc
    echo "libc_version=${version#glibc }"
    ;;
esac
exit 0
"#;

/// A user without rights, by whom an image is asked.
const NOBODY: (u32, u32) = (65534, 65534);

/// The PostgreSQL of the image `reference`, which must be there already. Containers are those of `home`.
pub(crate) async fn find(home: &Path, reference: &str, major: Option<u32>) -> Result<Installation> {
    let engine = Engine::connect().await?;
    match id(&engine, reference).await? {
        Some(id) => ask(&engine, home, reference, &id, major).await,
        None => Err(missing(reference, "is not on the engine", &engine).with_hint(format!(
            "{} pull {reference}; `velo project create` does it too",
            engine.program()
        ))),
    }
}

/// The same, after it was pulled where it is missing.
pub(crate) async fn find_or_pull(
    home: &Path,
    reference: &str,
    major: Option<u32>,
    progress: &(dyn Fn(&str) + Send + Sync),
) -> Result<Installation> {
    let engine = Engine::connect().await?;
    let found = match id(&engine, reference).await? {
        Some(id) => id,
        None => {
            pull(&engine, reference, progress).await?;
            id(&engine, reference)
                .await?
                .ok_or_else(|| missing(reference, "was pulled, and is not there", &engine))?
        }
    };
    ask(&engine, home, reference, &found, major).await
}

/// Whether the engine has the image with this id.
pub(crate) async fn is_there(image: &str) -> Result<bool> {
    Ok(id(&Engine::connect().await?, image).await?.is_some())
}

fn missing(reference: &str, what: &str, engine: &Engine) -> Error {
    let reached = engine.reached();
    Error::new(ErrorKind::PostgresMissing, format!("the image {reference} {what}"))
        .with_context("engine", format!("{} at {}", reached.name, reached.socket.display()))
}

/// The engine's own name of an image.
async fn id(engine: &Engine, reference: &str) -> Result<Option<String>> {
    let part = |part: &str| part.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric());
    let valid = reference.split('/').all(part)
        && reference.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-/:@".contains(&b));
    let invalid = || {
        Error::new(ErrorKind::InvalidInput, format!("{reference:?} is no name of an image"))
            .with_hint("names are like postgres:18 or registry.example/team/postgres:16")
    };
    if !valid {
        return Err(invalid());
    }
    match engine.api.inspect_image(reference).await {
        Ok(found) => Ok(found.id),
        Err(error) if error.to_string().contains("invalid reference format") => {
            Err(invalid().with_source(error))
        }
        Err(error) => match refusal(&error) {
            Some(Refusal::Missing) => Ok(None),
            _ => Err(failed(format!("look at the image {reference}"), error)),
        },
    }
}

async fn pull(
    engine: &Engine,
    reference: &str,
    progress: &(dyn Fn(&str) + Send + Sync),
) -> Result<()> {
    // Without a tag an engine would pull every one that there is.
    let last = reference.rsplit('/').next().unwrap_or_default();
    let whole = if last.contains([':', '@']) {
        reference.to_owned()
    } else {
        format!("{reference}:latest")
    };
    let refused = |error| {
        missing(reference, "cannot be had", engine)
            .with_hint(by_hand(engine.program(), &whole))
            .with_source(failed(format!("pull {whole}"), error))
    };
    progress(&format!("pulling {whole}"));
    let options = query::CreateImageOptionsBuilder::new().from_image(&whole).build();
    let mut stream = engine.api.create_image(Some(options), None, None);
    while let Some(step) = stream.next().await {
        let step = step.map_err(refused)?;
        let words = [step.id, step.status];
        let mut line = words.into_iter().flatten().collect::<Vec<_>>().join(" ");
        let detail = step.progress_detail.unwrap_or_default();
        if let (Some(now), Some(all)) = (detail.current, detail.total)
            && all > 0
        {
            line.push_str(&format!(" {} %", now * 100 / all));
        }
        progress(&line);
    }
    Ok(())
}

/// What to do about an image that cannot be pulled. Velo has no credentials: the engine's program has.
fn by_hand(program: &str, reference: &str) -> String {
    format!(
        "look at the name and at the way to its registry. One that wants a login: {program} login, and then \
         {program} pull {reference}. Without a registry: {program} load"
    )
}

/// Asks an image for its PostgreSQL.
async fn ask(
    engine: &Engine,
    home: &Path,
    reference: &str,
    id: &str,
    major: Option<u32>,
) -> Result<Installation> {
    let command = ["/bin/sh", "-c", QUESTIONS].map(str::to_owned).to_vec();
    let body = container::tool(engine, home, id, NOBODY, command, Vec::new());
    let unusable = |why: &str| {
        missing(reference, &format!("cannot be used: {why}"), engine)
            .with_hint("use one with PostgreSQL 14 or later, like postgres:18")
    };
    let (limit, never) = (Some(LOOK), Cancel::default());
    let output = tool::run(engine, home, body, "a look into the image", limit, &never).await;
    let output = output.map_err(|error| match error.kind() {
        ErrorKind::Unsupported => unusable("its shell does not start").with_source(error),
        _ => error,
    })?;
    if !output.success {
        return Err(unusable(output.stderr.lines().last().unwrap_or(&output.status)));
    }
    let mut found = answer(&output.stdout).map_err(|what| {
        unusable(&format!("it does not tell its {what} ({})", output.stderr.trim()))
    })?;
    if let Some(image) = &mut found.image {
        (image.reference, image.id) = (reference.to_owned(), id.to_owned());
        if image.uid == 0 {
            return Err(unusable("its user postgres is root"));
        }
    }
    check_supported(&found)?;
    if let Some(major) = major
        && major != found.version.major
    {
        return Err(Error::new(
            ErrorKind::Incompatible,
            format!(
                "the image {reference} has PostgreSQL {}, and {major} is wanted",
                found.version
            ),
        )
        .with_hint(format!("name one of that version, like postgres:{major}")));
    }
    Ok(found)
}

/// For a fuzzer.
#[cfg(feature = "testing")]
pub(super) fn any_text(text: &str) -> bool {
    answer(text).is_ok()
}

/// What an image answered; the error is what it left out.
fn answer(text: &str) -> std::result::Result<Installation, &'static str> {
    let value = |key: &'static str| {
        text.lines()
            .filter_map(|line| line.split_once('='))
            .find(|(name, value)| *name == key && !value.is_empty())
            .map(|(_, value)| value.trim())
            .ok_or(key)
    };
    let libc = match value("libc")? {
        "musl" => Libc::Musl,
        _ => Libc::Glibc,
    };
    Ok(Installation {
        bin_dir: PathBuf::from(value("bin")?),
        version: Version::of_output(value("version")?).ok_or("version")?,
        source: Source::Image,
        image: Some(Image {
            reference: String::new(),
            id: String::new(),
            uid: value("uid")?.parse().map_err(|_| "uid")?,
            gid: value("gid")?.parse().map_err(|_| "gid")?,
            libc,
            libc_version: value("libc_version").ok().map(str::to_owned),
        }),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn docker_images_of_private_registries_are_pulled_by_hand() {
        let hint = by_hand("podman", "registry.example/team/postgres:16");
        for part in ["podman login", "podman pull registry.example/team/postgres:16", "podman load"]
        {
            assert!(hint.contains(part), "{hint}");
        }
    }

    #[test]
    fn docker_images_answer() {
        let text = "bin=/usr/local/bin\nversion=postgres (PostgreSQL) 18.1\nuid=70\ngid=71\n\
                    libc=musl\nlibc_version=1.2.5\n";
        let found = answer(text).unwrap();
        let image = found.image.unwrap();
        assert_eq!(found.bin_dir, Path::new("/usr/local/bin"));
        assert_eq!(found.version, Version { major: 18, minor: 1 });
        assert_eq!((image.uid, image.gid, image.libc), (70, 71, Libc::Musl));
        assert_eq!(image.libc_version.as_deref(), Some("1.2.5"));
        assert_eq!(
            answer("bin=/x\nlibc=glibc\nversion=postgres (PostgreSQL) 15.1\nuid=\n"),
            Err("uid")
        );
    }
}
