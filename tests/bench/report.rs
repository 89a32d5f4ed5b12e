//! What every benchmark prints: a table, or the same as JSON.

#![allow(dead_code, reason = "each benchmark uses its part")]

use std::time::Duration;

use serde_json::{Value, json};

/// Named rows of numbers, and remarks on how they came about.
pub struct Table {
    title: String,
    columns: Vec<&'static str>,
    rows: Vec<(String, Vec<f64>)>,
    remarks: Vec<String>,
}

impl Table {
    /// An empty table; each column's name ends with its unit.
    pub fn new(title: impl Into<String>, columns: &[&'static str]) -> Table {
        Table { title: title.into(), columns: columns.to_vec(), rows: vec![], remarks: vec![] }
    }

    /// Adds a row, a number for each column; there may be fewer.
    pub fn row(&mut self, name: impl Into<String>, numbers: &[f64]) {
        self.rows.push((name.into(), numbers.to_vec()));
    }

    /// Adds a line below the table.
    pub fn remark(&mut self, text: impl Into<String>) {
        self.remarks.push(text.into());
    }

    /// Prints it to standard output.
    pub fn print(&self, as_json: bool) {
        if as_json {
            println!("{:#}", self.json());
            return;
        }
        let width = self.rows.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
        println!("{}\n\n{:width$}  {}", self.title, "", self.columns.join("  "));
        for (name, numbers) in &self.rows {
            print!("{name:width$}");
            for (column, number) in self.columns.iter().zip(numbers) {
                print!("  {number:>width$.3}", width = column.len());
            }
            println!();
        }
        println!();
        self.remarks.iter().for_each(|remark| println!("{remark}"));
    }

    fn json(&self) -> Value {
        let row = |(name, numbers): &(String, Vec<f64>)| {
            let mut object = json!({ "name": name });
            for (column, number) in self.columns.iter().zip(numbers) {
                object[column] = json!(number);
            }
            object
        };
        let rows: Vec<Value> = self.rows.iter().map(row).collect();
        json!({ "title": self.title, "rows": rows, "remarks": self.remarks })
    }
}

/// Minimum and median, in milliseconds; of nothing they are not a number.
pub fn milliseconds(times: &[Duration]) -> [f64; 2] {
    let mut times: Vec<f64> = times.iter().map(|t| t.as_secs_f64() * 1e3).collect();
    times.sort_by(f64::total_cmp);
    let at = |index: usize| times.get(index).copied().unwrap_or(f64::NAN);
    [at(0), at(times.len() / 2)]
}
