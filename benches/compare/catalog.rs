//! Which rows there are in a place with a seed of this size, and why others are not.

use std::path::{Path, PathBuf};

use velo_benches::figures::label;
use velo_core::storage::StorageKind;

use crate::container::Container;
use crate::mitosis::Mitosis;
use crate::pg_tmp::PgTmp;
use crate::pglite::Pglite;
use crate::row::{Kind, Place, Row, Strategy};
use crate::seed::Seed;
use crate::template::{Server, Template};
use crate::velo::{Velo, With};

/// The majors whose templates are compared.
const MAJORS: [u32; 3] = [15, 17, 18];

/// What there is to compare with.
pub(crate) struct Catalog {
    /// Major, folder of programs: the newest last.
    pub(crate) postgres: Vec<(u32, PathBuf)>,
    image: Option<String>,
    mitosis: Option<PathBuf>,
    pg_tmp: Option<PathBuf>,
    pglite: Option<PathBuf>,
}

/// A row that is not there.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Skip {
    pub(crate) row: String,
    pub(crate) place: Place,
    pub(crate) size: u64,
    pub(crate) why: String,
}

/// The rows of a place.
pub(crate) struct Rows {
    pub(crate) rows: Vec<Box<dyn Row>>,
    pub(crate) skipped: Vec<Skip>,
}

impl Catalog {
    /// What the environment names.
    pub(crate) fn of_environment() -> Self {
        let path = |name: &str| std::env::var_os(name).map(PathBuf::from);
        let mut postgres = velo_benches::all_postgres();
        postgres.sort();
        Self {
            postgres,
            image: std::env::var("VELO_TEST_IMAGE_DEBIAN").ok(),
            mitosis: path("VELO_TEST_PEER_MITOSIS"),
            pg_tmp: path("VELO_TEST_PEER_PG_TMP"),
            pglite: path("VELO_TEST_PEER_PGLITE"),
        }
    }

    /// The newest PostgreSQL.
    pub(crate) fn newest(&self) -> Option<&(u32, PathBuf)> {
        self.postgres.last()
    }

    /// Rows whose folders are below `base`, which is there and is nobody else's.
    pub(crate) fn rows(&self, place: Place, seed: &Seed, base: &Path) -> Rows {
        let mut all = Collected { place, size: seed.size, rows: Vec::new(), skipped: Vec::new() };
        let Some((major, bin)) = self.newest() else {
            all.skip("all", "VELO_TEST_PG names no PostgreSQL");
            return all.done();
        };
        let storage = match place {
            Place::Btrfs => StorageKind::Btrfs,
            Place::Xfs => StorageKind::Reflink,
            Place::Ext4 | Place::Memory => StorageKind::Copy,
        };
        if seed.is_huge() && !place.clones() {
            self.one_copy(&mut all, base);
            return all.done();
        }
        let velo = Velo::new(base.join("velo"), storage, With::Programs(bin.clone()));
        let floor = velo.floor();
        all.rows.push(Box::new(velo));
        all.rows.push(Box::new(floor));
        if place != Place::Btrfs {
            all.skip(
                Kind::VeloDocker,
                "on btrfs alone: what a container adds is the same everywhere",
            );
        } else if seed.is_huge() {
            all.skip(Kind::VeloDocker, "one more seed of this size has no room beside the others");
        } else {
            match &self.image {
                Some(image) => {
                    let with = With::Image(image.clone());
                    all.rows.push(Box::new(Velo::new(base.join("docker"), storage, with)));
                }
                None => all.skip(Kind::VeloDocker, "VELO_TEST_IMAGE_DEBIAN names no image"),
            }
        }
        self.templates(&mut all, seed, base);
        if place.clones() {
            match &self.mitosis {
                Some(program) => {
                    let dir = base.join("mitosis");
                    let row = Mitosis::new(program.clone(), bin.clone(), *major, dir);
                    all.rows.push(Box::new(row));
                }
                None => all.skip(Kind::Mitosis, "VELO_TEST_PEER_MITOSIS names no program"),
            }
        } else {
            let why = "by its own choice it clones; its backend that copies, which it warns of, was not tried";
            all.skip(Kind::Mitosis, why);
        }
        self.loading(&mut all, seed, base, bin);
        all.done()
    }

    fn templates(&self, all: &mut Collected, seed: &Seed, base: &Path) {
        let clones = all.place.clones();
        for major in MAJORS {
            let strategies: &[Strategy] = match major {
                18 => &[Strategy::Clone],
                _ => &[Strategy::WalLog, Strategy::FileCopy],
            };
            if seed.is_huge() && major < 18 {
                let why = "it copies: one such row, on ext4, stands for all of them";
                strategies
                    .iter()
                    .for_each(|strategy| all.skip(Kind::Template(major, *strategy), why));
                continue;
            }
            let Some((_, bin)) = self.postgres.iter().find(|(there, _)| *there == major) else {
                let why = format!("VELO_TEST_PG names no PostgreSQL {major}");
                strategies
                    .iter()
                    .for_each(|strategy| all.skip(Kind::Template(major, *strategy), &why));
                continue;
            };
            let server = Server::new(major, bin.clone(), base.join(format!("pg{major}")));
            for strategy in strategies {
                all.rows.push(Box::new(Template::new(server.clone(), *strategy, clones)));
            }
        }
    }

    /// Those that load their data anew for each.
    fn loading(&self, all: &mut Collected, seed: &Seed, base: &Path, bin: &Path) {
        let small = "it loads its data anew, so that it is measured with the smallest seed alone";
        if all.place == Place::Ext4 {
            match &self.image {
                _ if !seed.is_small() => all.skip(Kind::Container, small),
                Some(image) => all.rows.push(Box::new(Container::new(image.clone()))),
                None => all.skip(Kind::Container, "VELO_TEST_IMAGE_DEBIAN names no image"),
            }
            match &self.pg_tmp {
                _ if !seed.is_small() => all.skip(Kind::PgTmp, small),
                Some(program) => {
                    let dir = base.join("pg_tmp");
                    all.rows.push(Box::new(PgTmp::new(program.clone(), bin.to_owned(), dir)));
                }
                None => all.skip(
                    Kind::PgTmp,
                    "VELO_TEST_PEER_PG_TMP names no program (no package registry has it)",
                ),
            }
        }
        if all.place != Place::Ext4 {
            all.skip(
                Kind::Container,
                "on ext4 alone: its data is the engine's, whatever the place",
            );
            all.skip(Kind::PgTmp, "on ext4 alone: most of its time is initdb's and the load's");
        }
        if all.place != Place::Memory {
            all.skip(Kind::Pglite, "it lives in memory");
        } else {
            match &self.pglite {
                _ if !seed.is_small() => all.skip(Kind::Pglite, small),
                Some(modules) => all.rows.push(Box::new(Pglite::new(modules.clone()))),
                None => all.skip(Kind::Pglite, "VELO_TEST_PEER_PGLITE names no folder"),
            }
        }
    }

    /// The copy of a huge seed that stands for all copies.
    fn one_copy(&self, all: &mut Collected, base: &Path) {
        match self.postgres.iter().find(|(major, _)| *major < 18) {
            Some((major, bin)) if all.place == Place::Ext4 => {
                let server = Server::new(*major, bin.clone(), base.join(format!("pg{major}")));
                all.rows.push(Box::new(Template::new(server, Strategy::FileCopy, false)));
                all.skip("all others", "they copy: one row stands for all of them");
            }
            Some(_) => {
                all.skip("all", &format!("a copy of {} does not fit here", label(all.size)));
            }
            None => all.skip("all", "VELO_TEST_PG names no PostgreSQL before 18"),
        }
    }
}

struct Collected {
    place: Place,
    size: u64,
    rows: Vec<Box<dyn Row>>,
    skipped: Vec<Skip>,
}

impl Collected {
    fn skip(&mut self, row: impl ToString, why: &str) {
        let row = row.to_string();
        self.skipped.push(Skip { row, place: self.place, size: self.size, why: why.to_owned() });
    }

    fn done(self) -> Rows {
        Rows { rows: self.rows, skipped: self.skipped }
    }
}
