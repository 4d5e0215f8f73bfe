//! The floor: the least that a branch could cost. Nothing is recorded, checked or cleaned up by
//! anybody but this file.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::{Result, client, process};
use rustix::ioctl::{Opcode, Setter, ioctl, opcode};
use velo_core::Connection;
use velo_core::storage::StorageKind;

/// Makes bare clones of a folder and runs bare servers on them.
pub struct Floor {
    kind: StorageKind,
    /// Where clones and the servers' files go; on the file system of the source.
    pub dir: PathBuf,
    /// PGDATA of the source.
    source: PathBuf,
    /// Who owns it.
    pub owner: (u32, u32),
    program: PathBuf,
    /// The command line of a real branch, but for the port.
    pub args: Vec<OsString>,
    /// A real branch's, but for the port.
    pub connection: Connection,
}

/// A bare server.
pub struct Running {
    child: Child,
    /// What the clone under it took.
    pub clone: Duration,
    /// How it is reached.
    pub connection: Connection,
}

impl Running {
    /// Its process.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }
}

/// What one sample took.
pub struct Sample {
    /// Until the first answer.
    pub total: Duration,
    /// Of it, the clone.
    pub clone: Duration,
}

impl Drop for Running {
    /// Whoever forgets it leaves no server.
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None))
            && let Err(error) = process::quit(&mut self.child)
        {
            eprintln!("a bare server stays: {error}");
        }
    }
}

impl Floor {
    /// A floor in `dir`, which it makes, with what the running branch `pid` was started with.
    ///
    /// # Errors
    /// If the folder cannot be made, or that branch does not run.
    pub fn new(
        kind: StorageKind,
        dir: PathBuf,
        source: PathBuf,
        pid: u32,
        connection: Connection,
    ) -> Result<Self> {
        let proc = PathBuf::from(format!("/proc/{pid}"));
        let line = std::fs::read(proc.join("cmdline"))?;
        let all: Vec<OsString> =
            line.split(|b| *b == 0).map(|arg| OsStr::from_bytes(arg).to_owned()).collect();
        let program = std::fs::read_link(proc.join("exe"))?;
        let meta = std::fs::metadata(&source)?;
        let owner = (meta.uid(), meta.gid());
        std::fs::create_dir(&dir)?;
        std::fs::set_permissions(&dir, std::fs::Permissions::from_mode(0o711))?;
        let mut floor = Self { kind, dir, source, owner, program, args: Vec::new(), connection };
        std::fs::create_dir(floor.socket())?;
        std::os::unix::fs::chown(floor.socket(), Some(owner.0), Some(owner.1))?;
        for name in ["hba.conf", "ident.conf"] {
            let setting = name.replace(".conf", "_file=");
            let from = all
                .iter()
                .find_map(|arg| arg.to_str()?.strip_prefix(&setting))
                .ok_or("the branch's command line names no access rules")?;
            std::fs::copy(from, floor.dir.join(name))?;
            std::os::unix::fs::chown(floor.dir.join(name), Some(owner.0), Some(owner.1))?;
        }
        floor.args = floor.command_line(&all)?;
        Ok(floor)
    }

    fn socket(&self) -> PathBuf {
        self.dir.join("s")
    }

    /// PGDATA of the clone.
    #[must_use]
    pub fn clone_path(&self) -> PathBuf {
        self.dir.join("data")
    }

    /// The branch's settings, and paths of the floor's own. The port comes with each start.
    fn command_line(&self, all: &[OsString]) -> Result<Vec<OsString>> {
        let mut args = vec!["-D".into(), self.clone_path().into_os_string()];
        for arg in all {
            let Some((name, value)) = arg.to_str().and_then(|arg| arg.split_once('=')) else {
                continue;
            };
            let value = match name {
                "port" => continue,
                "data_directory" => self.clone_path().display().to_string(),
                "hba_file" => self.dir.join("hba.conf").display().to_string(),
                "ident_file" => self.dir.join("ident.conf").display().to_string(),
                "unix_socket_directories" => self.socket().display().to_string(),
                _ => value.to_owned(),
            };
            args.extend(["-c".into(), format!("{name}={value}").into()]);
        }
        Ok(args)
    }

    /// From nothing to the first answer; then all of it is removed.
    ///
    /// # Errors
    /// If the clone or its server fails.
    pub async fn sample(&self) -> Result<Sample> {
        let begun = Instant::now();
        let running = self.start()?;
        let answered = client::first_answer(&running.connection).await;
        let total = begun.elapsed();
        let clone = running.clone;
        let ended = self.end(running);
        drop(answered?);
        ended?;
        Ok(Sample { total, clone })
    }

    /// From nothing to a server that is ready. It ends with this thread.
    ///
    /// # Errors
    /// If the clone or its server fails; nothing stays.
    pub fn start(&self) -> Result<Running> {
        let port = std::net::TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port();
        let begun = Instant::now();
        self.clone_data()?;
        // Of a running source it would name a process that lives.
        match std::fs::remove_file(self.clone_path().join("postmaster.pid")) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(e.into()),
            _ => {}
        }
        let clone = begun.elapsed();
        let mut connection = self.connection.clone();
        connection.port = port;
        let mut running = Running { child: self.spawn(port)?, clone, connection };
        match self.ready(&mut running.child) {
            Ok(()) => Ok(running),
            Err(error) => {
                self.end(running)?;
                Err(error)
            }
        }
    }

    /// Ends a server, and removes what it ran on.
    ///
    /// # Errors
    /// If it does not end, or something of it stays.
    pub fn end(&self, mut running: Running) -> Result<()> {
        let ended = process::quit(&mut running.child);
        self.remove()?;
        ended
    }

    fn spawn(&self, port: u16) -> Result<Child> {
        let log = File::create(self.dir.join("log"))?;
        let mut command = Command::new(&self.program);
        command
            .args(&self.args)
            .arg("-c")
            .arg(format!("port={port}"))
            .env_clear()
            .env("LC_ALL", "C")
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log);
        process::tie(&mut command, Some(self.owner));
        Ok(command.spawn()?)
    }

    fn ready(&self, child: &mut Child) -> Result<()> {
        let begun = Instant::now();
        while !process::is_ready(&self.clone_path()) {
            let late = begun.elapsed() > Duration::from_secs(600);
            if late || child.try_wait()?.is_some() {
                let log = std::fs::read_to_string(self.dir.join("log")).unwrap_or_default();
                return Err(format!("the bare server does not come up:\n{log}").into());
            }
            std::thread::sleep(Duration::from_micros(200));
        }
        Ok(())
    }

    /// One bare clone.
    ///
    /// # Errors
    /// If the file system refuses.
    pub fn clone_data(&self) -> Result<()> {
        match self.kind {
            StorageKind::Btrfs => {
                let (at, source) = (File::open(&self.dir)?, File::open(&self.source)?);
                Ok(snapshot(&at, &source)?)
            }
            kind => self.each_file(kind),
        }
    }

    /// Every folder by one thread, then every file by as many as there are cores.
    fn each_file(&self, kind: StorageKind) -> Result<()> {
        let root = rustix::process::geteuid().is_root();
        let (mut files, mut folders) = (Vec::new(), vec![PathBuf::new()]);
        while let Some(rel) = folders.pop() {
            let (from, to) = (self.source.join(&rel), self.clone_path().join(&rel));
            std::fs::create_dir(&to)?;
            std::fs::set_permissions(&to, std::fs::Permissions::from_mode(0o700))?;
            if root {
                std::os::unix::fs::chown(&to, Some(self.owner.0), Some(self.owner.1))?;
            }
            for entry in std::fs::read_dir(&from)? {
                let entry = entry?;
                let list = if entry.file_type()?.is_dir() { &mut folders } else { &mut files };
                list.push(rel.join(entry.file_name()));
            }
        }
        let next = AtomicUsize::new(0);
        let work = || -> Result<()> {
            while let Some(rel) = files.get(next.fetch_add(1, Ordering::Relaxed)) {
                let from = match File::open(self.source.join(rel)) {
                    Ok(from) => from,
                    Err(e) if e.kind() == std::io::ErrorKind::NotFound => continue,
                    Err(e) => return Err(e.into()),
                };
                let size = from.metadata()?.len();
                let mut to = std::fs::OpenOptions::new();
                let mut to = to
                    .write(true)
                    .create_new(true)
                    .mode(0o600)
                    .open(self.clone_path().join(rel))?;
                match kind {
                    StorageKind::Copy => drop(std::io::copy(&mut &from, &mut to)?),
                    _ if size > 0 => rustix::fs::ioctl_ficlone(to.as_fd(), from.as_fd())?,
                    _ => {}
                }
                if root {
                    std::os::unix::fs::fchown(&to, Some(self.owner.0), Some(self.owner.1))?;
                }
            }
            Ok(())
        };
        let threads = std::thread::available_parallelism().map_or(1, |n| n.get());
        std::thread::scope(|scope| {
            let all: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
            all.into_iter().try_for_each(|thread| {
                thread.join().unwrap_or_else(|_| Err("a cloning thread panicked".into()))
            })
        })
    }

    /// Removes the clone; missing is fine.
    ///
    /// # Errors
    /// If something of it stays.
    pub fn remove(&self) -> Result<()> {
        if self.kind == StorageKind::Btrfs {
            // Where only root may, the folder is emptied below.
            let _ = destroy(&File::open(&self.dir)?);
        }
        match std::fs::remove_dir_all(self.clone_path()) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(e.into()),
            _ => Ok(()),
        }
    }
}

impl Drop for Floor {
    fn drop(&mut self) {
        let gone = self.remove().and_then(|()| Ok(std::fs::remove_dir_all(&self.dir)?));
        if let Err(error) = gone {
            eprintln!("cannot remove {}: {error}", self.dir.display());
        }
    }
}

/// `struct btrfs_ioctl_vol_args_v2`, whose first three fields and name are what is used.
#[repr(C)]
struct VolArgs {
    fd: i64,
    transid: u64,
    flags: u64,
    unused: [u64; 4],
    name: [u8; 4040],
}

/// `struct btrfs_ioctl_vol_args`.
#[repr(C)]
struct OldArgs {
    fd: i64,
    name: [u8; 4088],
}

const SNAP_CREATE_V2: Opcode = opcode::write::<VolArgs>(0x94, 23);
const SNAP_DESTROY: Opcode = opcode::write::<OldArgs>(0x94, 15);

fn snapshot(at: &File, source: &File) -> rustix::io::Result<()> {
    use std::os::fd::AsRawFd;
    let mut name = [0; 4040];
    name[..4].copy_from_slice(b"data");
    let fd = i64::from(source.as_raw_fd());
    let args = VolArgs { fd, transid: 0, flags: 0, unused: [0; 4], name };
    // SAFETY: the opcode is that of BTRFS_IOC_SNAP_CREATE_V2, which reads such a struct; both files
    // are open until it returns, and the name ends with a zero.
    unsafe { ioctl(at, Setter::<SNAP_CREATE_V2, _>::new(args)) }
}

fn destroy(at: &File) -> rustix::io::Result<()> {
    let mut name = [0; 4088];
    name[..4].copy_from_slice(b"data");
    let args = OldArgs { fd: 0, name };
    // SAFETY: as for `snapshot`, with BTRFS_IOC_SNAP_DESTROY.
    unsafe { ioctl(at, Setter::<SNAP_DESTROY, _>::new(args)) }
}
