//! The handover in processes of a run, which share the pool of their keeper.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use velo_benches::Result;
use velo_benches::figures::Times;
use velo_core::{Config, Project};

/// Says to a process that it is one of a run, and where its home is.
pub const HOME: &str = "VELO_TEST_READY_HOME";
const SAMPLES: &str = "VELO_TEST_READY_SAMPLES";

/// How many of them ask.
const PROCESSES: usize = 2;

/// Starts a run, and collects what its processes measure.
pub fn measure(home: &Path, samples: usize) -> Result<Times> {
    // The run ends with a process that does nothing.
    let mut root = Command::new("sleep").arg("3600").spawn()?;
    let times = collect(home, samples, root.id());
    root.kill()?;
    root.wait()?;
    // It takes its socket away when all that it had is gone.
    let begun = Instant::now();
    while std::fs::read_dir(home.join("keepers")).is_ok_and(|mut all| all.next().is_some()) {
        if begun.elapsed() > Duration::from_secs(30) {
            return Err("the keeper of a run is still there when the run is over".into());
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    times
}

fn collect(home: &Path, samples: usize, root: u32) -> Result<Times> {
    let own = std::env::current_exe()?;
    let start = |_| {
        Command::new(&own)
            .env(HOME, home)
            .env(SAMPLES, samples.div_ceil(PROCESSES).to_string())
            .env("VELO_RUN", "ready")
            .env("VELO_RUN_ROOT", root.to_string())
            .stdout(Stdio::piped())
            .spawn()
    };
    let processes: Vec<Child> = (0..PROCESSES).map(start).collect::<std::io::Result<_>>()?;
    let mut times = Times::default();
    for process in processes {
        let output = process.wait_with_output()?;
        if !output.status.success() {
            return Err(format!("a process of a run failed: {}", output.status).into());
        }
        for line in String::from_utf8(output.stdout)?.lines() {
            times.0.push(line.parse()?);
        }
    }
    Ok(times)
}

/// What a process of the run does: it asks, and prints how many milliseconds each answer took.
pub fn asks(home: &Path) -> Result<()> {
    let samples: usize = std::env::var(SAMPLES)?.parse()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let config = Config::builder().home(home).build()?;
        let project = Project::builder("api").config(config).open().await?;
        let seed = project.seeds().await?.pop().ok_or("there is no seed")?;
        let pool = super::filled(&seed).await?;
        let mut next = Instant::now();
        for _ in 0..samples {
            next += super::PAUSE * PROCESSES as u32;
            tokio::time::sleep_until(next.into()).await;
            let begun = Instant::now();
            let branch = pool.acquire().await?;
            println!("{}", begun.elapsed().as_secs_f64() * 1e3);
            tokio::spawn(branch.close());
        }
        Ok(())
    })
}
