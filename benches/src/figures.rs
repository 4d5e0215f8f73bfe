//! Sizes and times, as they are read and shown.

use std::time::Duration;

use serde_json::{Value, json};

use crate::Result;

/// 2^30 bytes.
pub const GB: u64 = 1 << 30;

/// Times in milliseconds.
#[derive(Default, serde::Serialize, serde::Deserialize)]
pub struct Times(pub Vec<f64>);

impl Times {
    /// One more.
    pub fn add(&mut self, time: Duration) {
        self.0.push(time.as_secs_f64() * 1e3);
    }

    /// The value below which the share `p` lies.
    #[must_use]
    pub fn at(&self, p: f64) -> f64 {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        let last = sorted.len().saturating_sub(1);
        let index = (p * last as f64).ceil() as usize;
        sorted.get(index).copied().unwrap_or(f64::NAN)
    }

    /// The middle one, or the mean of the two in the middle.
    #[must_use]
    pub fn median(&self) -> f64 {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        match sorted.len() {
            0 => f64::NAN,
            n if n % 2 == 1 => sorted[n / 2],
            n => f64::midpoint(sorted[n / 2 - 1], sorted[n / 2]),
        }
    }

    /// Median, 95th percentile and every sample.
    #[must_use]
    pub fn json(&self) -> Value {
        json!({"median_ms": self.median(), "p95_ms": self.at(0.95), "samples_ms": self.0})
    }
}

/// A size of the command line: `40MB`, `100G`.
///
/// # Errors
/// If it is none.
pub fn size(text: &str) -> Result<u64> {
    let text = text.trim();
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = match &text[digits.len()..] {
        "M" | "MB" => 1 << 20,
        "G" | "GB" => GB,
        other => return Err(format!("{text:?} is no size: {other:?} is not MB or GB").into()),
    };
    Ok(digits.parse::<u64>()? * unit)
}

/// A size as the command line takes it.
#[must_use]
pub fn label(size: u64) -> String {
    if size.is_multiple_of(GB) {
        format!("{} GB", size >> 30)
    } else {
        format!("{} MB", size >> 20)
    }
}

/// Milliseconds; what was not measured is empty.
#[must_use]
pub fn ms(value: f64) -> String {
    if value.is_nan() { String::new() } else { format!("{value:.1}") }
}

/// Bytes in MB.
#[must_use]
pub fn mb(bytes: u64) -> String {
    format!("{:.2} MB", bytes as f64 / f64::from(1 << 20))
}
