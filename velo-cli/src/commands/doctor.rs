//! `velo doctor`.

use serde_json::json;
use velo_core::doctor::{Finding, Status};
use velo_core::{Config, Result};

use crate::output::{Colour, Out};
use crate::progress::Spinner;

pub(crate) fn run(out: &Out) -> Result<u8> {
    let config = Config::load()?;
    let findings = {
        let _spinner = Spinner::new("looking around");
        velo_core::doctor::examine(&config)
    };
    out.result(
        || findings.iter().map(|finding| json!(finding)).collect(),
        |out| {
            for finding in &findings {
                show(finding, out);
            }
        },
    );
    let broken = findings.iter().any(|f| f.status == Status::Fail);
    Ok(if broken { crate::FAILED } else { crate::DONE })
}

pub(super) fn show(finding: &Finding, out: &Out) {
    let (mark, colour) = match finding.status {
        Status::Ok => ("ok  ", Colour::Green),
        Status::Warn => ("warn", Colour::Yellow),
        _ => ("FAIL", Colour::Red),
    };
    out.line(format!("{}  {}: {}", out.paint(mark, colour), finding.name, finding.what));
    if let Some(fix) = &finding.fix {
        out.line(format!("      {} {fix}", out.paint("fix:", Colour::Yellow)));
    }
}
