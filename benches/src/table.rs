//! Tables of results.

use std::fmt::Write;

/// A Markdown table whose columns line up.
pub struct Table(Vec<Vec<String>>);

impl Table {
    /// One with this head.
    #[must_use]
    pub fn new(head: &[&str]) -> Self {
        Self(vec![head.iter().map(|cell| (*cell).to_owned()).collect()])
    }

    /// One more row.
    pub fn row(&mut self, cells: Vec<String>) {
        self.0.push(cells);
    }

    /// As Markdown.
    #[must_use]
    pub fn render(&self) -> String {
        let columns = self.0.first().map_or(0, Vec::len);
        let width = |i: usize| {
            self.0.iter().filter_map(|row| row.get(i)).map(|c| c.chars().count()).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..columns).map(width).collect();
        let mut out = String::new();
        for (i, row) in self.0.iter().enumerate() {
            for (cell, width) in row.iter().zip(&widths) {
                let _ = write!(out, "| {cell:width$} ");
            }
            out.push_str("|\n");
            if i == 0 {
                for width in &widths {
                    let _ = write!(out, "|{}", "-".repeat(width + 2));
                }
                out.push_str("|\n");
            }
        }
        out
    }
}
