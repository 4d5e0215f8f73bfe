//! `velo doctor`.

use serde_json::json;
use velo_core::doctor::{Finding, Status};
use velo_core::{Config, Result};

use crate::output::{Colour, Out};
use crate::progress::Spinner;

pub(crate) fn run(fix: bool, out: &Out) -> Result<u8> {
    let config = Config::load()?;
    if fix {
        return set_right(&config, out);
    }
    let findings = {
        let _spinner = Spinner::new(out, "looking around");
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
    Ok(code(&findings))
}

/// Sets right what can be, and shows what is left.
fn set_right(config: &Config, out: &Out) -> Result<u8> {
    let fixed = {
        let _spinner = Spinner::new(out, "setting right");
        velo_core::doctor::fix(config)?
    };
    out.result(
        || json!({ "deeds": fixed.deeds, "findings": fixed.findings }),
        |out| {
            for deed in &fixed.deeds {
                super::care::show(deed, false, out);
            }
            for finding in &fixed.findings {
                show(finding, out);
            }
        },
    );
    let failed = fixed.deeds.iter().any(|deed| deed.error.is_some());
    Ok(if failed { crate::FAILED } else { code(&fixed.findings) })
}

fn code(findings: &[Finding]) -> u8 {
    let broken = findings.iter().any(|f| f.status == Status::Fail);
    if broken { crate::FAILED } else { crate::DONE }
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
