//! Settings of a larger machine, brought down to this one. What recovery or a standby needs as high as it was
//! there stays: connections, workers, locks, prepared transactions, senders.

use super::auto_conf;
use super::bring::Import;
use crate::error::{Error, ErrorKind, Result};
use crate::runtime::ToolSpec;
use crate::storage::{FileOp, Object};

/// A recovery in single-user mode has this many, whatever the source had.
pub(super) fn buffers_for_single_user() -> [(&'static str, String); 1] {
    [("shared_buffers", "128MB".to_owned())]
}

impl Import<'_> {
    /// Looks at what the copy's server would take at its start, and lowers what this machine does not have.
    pub(super) async fn scale(&mut self) -> Result<()> {
        let memory = memory();
        let buffers: u64 = self.would_be("shared_buffers").await?.parse().unwrap_or(0);
        let buffers = buffers.saturating_mul(8192);
        let mut lines = Vec::new();
        if memory > 0 && buffers > memory / 4 {
            let wanted = (memory / 8).max(16 << 20) >> 20;
            lines.push(("shared_buffers", format!("{wanted}MB")));
            self.note(format!(
                "shared_buffers is {wanted} MB, and was {} MB: this machine has {} MB",
                buffers >> 20,
                memory >> 20
            ));
        }
        if self.would_be("huge_pages").await? == "on" {
            lines.push(("huge_pages", "try".to_owned()));
            self.note("huge_pages is try, and was on".to_owned());
        }
        let dynamic: u64 = self.would_be("min_dynamic_shared_memory").await?.parse().unwrap_or(0);
        if memory > 0 && (dynamic << 20) > memory / 8 {
            lines.push(("min_dynamic_shared_memory", "0".to_owned()));
            self.note(format!("min_dynamic_shared_memory is 0, and was {dynamic} MB"));
        }
        if lines.is_empty() {
            return Ok(());
        }
        let mut text = auto_conf::read(self.location.host_path())?;
        for (name, value) in lines {
            auto_conf::add(&mut text, name, &value);
        }
        let write = FileOp::Write { path: auto_conf::NAME.to_owned(), content: text };
        self.storage.edit(Object::Volume(self.volume), vec![write]).await
    }

    /// What a setting would be in a server on the copy, in its own unit.
    pub(super) async fn would_be(&self, name: &str) -> Result<String> {
        let args = ["-D", "{}", "-c", "data_directory={}", "-C", name].map(str::to_owned).to_vec();
        let spec = ToolSpec {
            args,
            cancel: self.op.cancel.clone(),
            ..ToolSpec::new(self.project.postgres.clone(), "postgres", self.location.clone())
        };
        let output = self.runtime.run(spec).await?;
        if !output.success {
            let what = format!("the settings of the data cannot be read: {}", output.stderr.trim());
            return Err(Error::new(ErrorKind::Incompatible, what).with_hint(
                "its postgresql.conf names what is not here, or what this PostgreSQL does not know",
            ));
        }
        Ok(output.stdout.trim().to_owned())
    }
}

/// The machine's memory in bytes; 0 where it is not known.
fn memory() -> u64 {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"));
    let kilobytes = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
    kilobytes.unwrap_or(0) << 10
}
