//! The measurements in one folder.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use velo_benches::figures::Times;
use velo_benches::floor::Floor;
use velo_benches::server::data_of;
use velo_benches::{Result, client, in_project, machine};
use velo_core::storage::StorageKind;
use velo_core::{Project, Seed, SeedKey};

/// What was measured in one place.
#[derive(Default, Serialize, Deserialize)]
pub(crate) struct Measured {
    pub(crate) place: String,
    pub(crate) file_system: String,
    pub(crate) postgres: String,
    pub(crate) floor: Times,
    pub(crate) floor_clone: Times,
    pub(crate) velo: Times,
    /// Velo's copy.
    pub(crate) clone: Times,
    pub(crate) close: Times,
}

/// Measures in a folder of its own in `folder`, which goes again.
pub(crate) async fn measure(place: &str, folder: &Path, samples: usize) -> Result<Measured> {
    let base = folder.join(format!("velo-ordinary-{}", std::process::id()));
    std::fs::create_dir(&base)?;
    std::fs::set_permissions(&base, std::fs::Permissions::from_mode(0o711))?;
    eprintln!("{}", machine::file_system(&base));
    let sample = async |project: &Project| sample(project, &base, samples).await;
    let measured = in_project(&base.join("h"), StorageKind::Copy, sample).await;
    std::fs::remove_dir_all(&base)?;
    Ok(Measured { place: place.to_owned(), ..measured? })
}

async fn sample(project: &Project, base: &Path, samples: usize) -> Result<Measured> {
    let mut measured = Measured {
        file_system: machine::file_system(base),
        postgres: project.info().postgres.version.to_string(),
        ..Measured::default()
    };
    let nothing = async |_: velo_core::Branch| Ok::<_, velo_core::Error>(());
    let seed = project.seed(SeedKey::new().text("ordinary"), nothing).await?;
    let main = project.main().await?;
    let source = data_of(main.info().await?.pid.ok_or("main does not run")?)?;
    // A branch, for its command line. Its password is that of main's data.
    let real = seed.branch().await?;
    let pid = real.info().await?.pid.ok_or("the branch does not run")?;
    let floor = Floor::new(StorageKind::Copy, base.join("f"), source, pid, real.connection())?;
    real.close().await?;
    main.stop().await?;
    // The first pair warms caches and is not counted.
    for i in 0..=samples {
        for turn in 0..2 {
            if (i + turn) % 2 == 0 {
                let sample = floor.sample().await?;
                if i > 0 {
                    measured.floor.add(sample.total);
                    measured.floor_clone.add(sample.clone);
                }
            } else {
                velo(project, &seed, i > 0, &mut measured).await?;
            }
        }
    }
    Ok(measured)
}

/// One branch, from the call to its first answer and to its end.
async fn velo(project: &Project, seed: &Seed, counts: bool, measured: &mut Measured) -> Result<()> {
    let begun = Instant::now();
    let branch = seed.branch().await?;
    drop(client::first_answer(&branch.connection()).await?);
    let total = begun.elapsed();
    let clone =
        branch.timings().steps.iter().find(|(name, _)| name == "clone").map(|(_, took)| *took);
    let begun = Instant::now();
    branch.close().await?;
    let closed = begun.elapsed();
    if counts {
        measured.velo.add(total);
        measured.clone.add(clone.unwrap_or(Duration::ZERO));
        measured.close.add(closed);
    }
    // What is removed behind the caller must weigh on no other sample.
    project.finish_deletions().await?;
    Ok(())
}
