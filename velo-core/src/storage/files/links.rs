//! Which symbolic links a clone may hold.

use std::path::Path;

use crate::error::{Error, ErrorKind, Result};

/// Refuses a link through which a clone would write into files that are not its own. `rel` is the
/// link's path within the object at `root`, `target` is what it says.
pub(in crate::storage) fn check_link(root: &Path, rel: &Path, target: &[u8]) -> Result<()> {
    let depth = rel.components().count().saturating_sub(1);
    if stays_inside(depth, target) {
        return Ok(());
    }
    let link = root.join(rel);
    let target = String::from_utf8_lossy(target);
    let hint = if rel.starts_with("pg_tblspc") {
        "it is a tablespace: move its tables into the data folder (ALTER TABLE … SET TABLESPACE \
         pg_default) and drop it, or use an in-place tablespace"
    } else if rel == Path::new("pg_wal") {
        "stop the server, move the folder that the link names to pg_wal, and start it again"
    } else {
        "replace the link by the file or folder that it names"
    };
    Err(Error::new(
        ErrorKind::Incompatible,
        format!(
            "{} is a symbolic link to {target:?}, outside of the data folder: a clone would write \
             into its parent's files",
            link.display()
        ),
    )
    .with_hint(hint))
}

/// Whether a link `depth` folders below the root stays below it. `..` counts only at the front,
/// where it leads up from real folders: behind another link it could lead anywhere.
fn stays_inside(depth: usize, target: &[u8]) -> bool {
    if target.is_empty() || target.starts_with(b"/") {
        return false;
    }
    let mut ups = 0;
    let mut down = false;
    for part in target.split(|b| *b == b'/') {
        match part {
            b"" | b"." => {}
            b".." if down => return false,
            b".." => ups += 1,
            _ => down = true,
        }
    }
    ups <= depth
}

#[cfg(test)]
mod tests {
    use super::stays_inside;

    #[test]
    fn only_links_that_cannot_leave_are_taken() {
        for (depth, target) in [(0, "a"), (0, "a/b"), (0, "./a"), (1, "../a"), (2, "../../a//b")] {
            assert!(stays_inside(depth, target.as_bytes()), "{depth} {target}");
        }
        for (depth, target) in
            [(0, ""), (0, "/a"), (0, ".."), (0, "../a"), (1, "../../a"), (1, "a/.."), (5, "a/../b")]
        {
            assert!(!stays_inside(depth, target.as_bytes()), "{depth} {target}");
        }
    }
}
