//! The figures of several runs of one benchmark, and how they are shown.

use anyhow::{Result, bail};
use serde_json::{Value, json};

use crate::bench::figures::{Figure, Parts};

/// How many columns a table has at most.
const COLUMNS: usize = 8;
/// Those that are no numbers: the name and the unit.
const TEXT_COLUMNS: [usize; 2] = [0, 2];

/// All runs so far; each has the same figures in the same order.
#[derive(Debug, Default)]
pub(super) struct Results {
    runs: Vec<Vec<Figure>>,
}

/// One figure over all runs.
#[derive(Debug, PartialEq)]
struct Row<'a> {
    /// The run that is the median by value; all that is told of a run comes from one.
    median: &'a Figure,
    least: f64,
    greatest: f64,
}

impl Row<'_> {
    fn cells(&self) -> [String; COLUMNS] {
        let Figure {
            name,
            value,
            unit,
            instructions,
            parts,
        } = self.median;
        let spread = if self.least < self.greatest {
            format!("{}..{}", number(self.least), number(self.greatest))
        } else {
            String::new()
        };
        let part = |part: fn(&Parts) -> f64| parts.as_ref().map(part).map(number).unwrap_or_default();
        [
            name.clone(),
            number(*value),
            unit.clone(),
            instructions.map(number).unwrap_or_default(),
            part(|parts| parts.hypervisor),
            part(|parts| parts.kernel),
            part(|parts| parts.program),
            spread,
        ]
    }
}

impl Results {
    /// Adds a run.
    ///
    /// # Errors
    ///
    /// If its figures are not those of the runs before it.
    pub(super) fn add(&mut self, run: Vec<Figure>) -> Result<()> {
        if let Some(first) = self.runs.first() {
            let key = |figure: &Figure| (figure.name.clone(), figure.unit.clone());
            if !first.iter().map(key).eq(run.iter().map(key)) {
                bail!("two runs of the benchmark reported different figures");
            }
        }
        self.runs.push(run);
        Ok(())
    }

    fn rows(&self) -> Vec<Row<'_>> {
        let names = self.runs.first().into_iter().flatten();
        let row = |index: usize| {
            let mut values: Vec<&Figure> = self.runs.iter().filter_map(|run| run.get(index)).collect();
            values.sort_by(|left, right| left.value.total_cmp(&right.value));
            let median = values.get(values.len() / 2)?;
            Some(Row {
                median,
                least: values.first()?.value,
                greatest: values.last()?.value,
            })
        };
        names.enumerate().filter_map(|(index, _)| row(index)).collect()
    }

    /// The figures, each as the run had it that is the median.
    pub(super) fn medians(&self) -> impl Iterator<Item = &Figure> {
        self.rows().into_iter().map(|row| row.median)
    }

    /// The value of the figure `name`, if there is one.
    pub(super) fn value(&self, name: &str) -> Option<f64> {
        self.medians()
            .find(|figure| figure.name == name)
            .map(|figure| figure.value)
    }

    /// An aligned table, one line a figure, numbers to the right. Columns that would be empty are left out.
    pub(super) fn table(&self) -> String {
        let head = [
            "figure",
            "value",
            "unit",
            "instructions",
            "hypervisor",
            "kernel",
            "program",
            "spread",
        ];
        let rows: Vec<_> = self.rows().iter().map(Row::cells).collect();
        let mut widths = [0; COLUMNS];
        for row in &rows {
            for (width, cell) in widths.iter_mut().zip(row) {
                *width = cell.len().max(*width);
            }
        }
        for (width, title) in widths.iter_mut().zip(head).filter(|(width, _)| **width > 0) {
            *width = title.len().max(*width);
        }
        let head = head.map(str::to_owned);
        [head].iter().chain(&rows).fold(String::new(), |table, cells| {
            let mut line = String::new();
            for ((column, cell), width) in cells.iter().enumerate().zip(widths) {
                line += &match width {
                    0 => String::new(),
                    _ if TEXT_COLUMNS.contains(&column) => format!("  {cell:width$}"),
                    _ => format!("  {cell:>width$}"),
                };
            }
            table + line.trim_end() + "\n"
        })
    }

    /// One object a figure.
    pub(super) fn json(&self) -> Value {
        let figure = |row: &Row<'_>| {
            json!({
                "name": row.median.name,
                "value": row.median.value,
                "unit": row.median.unit,
                "instructions": row.median.instructions,
                "parts": row.median.parts.map(|parts| json!({
                    "hypervisor": parts.hypervisor,
                    "kernel": parts.kernel,
                    "program": parts.program,
                })),
                "least": row.least,
                "greatest": row.greatest,
                "runs": self.runs.len(),
            })
        };
        self.rows().iter().map(figure).collect()
    }
}

/// A value with as many decimals as it deserves: four digits in all, or all that stand before the point.
pub(super) fn number(value: f64) -> String {
    let decimals = match value.abs() {
        size if size >= 1000.0 => 0,
        size if size >= 100.0 => 1,
        size if size >= 10.0 => 2,
        _ => 3,
    };
    format!("{value:.decimals$}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn figure(name: &str, value: f64, instructions: Option<f64>) -> Figure {
        Figure {
            name: name.into(),
            value,
            unit: "ns".into(),
            instructions,
            parts: None,
        }
    }

    fn results(values: &[f64]) -> Results {
        let mut results = Results::default();
        for &value in values {
            results
                .add(vec![
                    figure("trap", value, None),
                    figure("null-hypercall", 2.0 * value, Some(206.0)),
                ])
                .unwrap();
        }
        results
    }

    #[test]
    fn the_median_stands_for_all_runs() {
        let results = results(&[30.0, 10.0, 11.0]);
        let rows = results.rows();
        let values: Vec<_> = rows
            .iter()
            .map(|row| (row.median.value, row.least, row.greatest))
            .collect();
        assert_eq!(values, [(11.0, 10.0, 30.0), (22.0, 20.0, 60.0)]);
    }

    #[test]
    fn the_table_is_aligned() {
        let expected = [
            "  figure          value  unit  instructions        spread\n",
            "  trap            11.00  ns                  10.00..30.00\n",
            "  null-hypercall  22.00  ns           206.0  20.00..60.00\n",
        ];
        assert_eq!(results(&[30.0, 10.0, 11.0]).table(), expected.concat());
    }

    #[test]
    fn a_figure_is_told_by_parts_where_these_are_known() {
        let mut results = Results::default();
        let parts = Parts {
            hypervisor: 170.0,
            kernel: 8.0,
            program: 3.0,
        };
        let call = Figure {
            parts: Some(parts),
            ..figure("call", 362.0, Some(181.0))
        };
        results.add(vec![call, figure("trap", 10.0, Some(5.0))]).unwrap();
        let expected = [
            "  figure  value  unit  instructions  hypervisor  kernel  program\n",
            "  call    362.0  ns           181.0       170.0   8.000    3.000\n",
            "  trap    10.00  ns           5.000\n",
        ];
        assert_eq!(results.table(), expected.concat());
        assert_eq!(results.json()[0]["parts"]["kernel"], 8.0);
        assert!(results.json()[1]["parts"].is_null());
    }

    #[test]
    fn one_run_has_no_spread() {
        let table = results(&[1234.5]).table();
        assert!(!table.contains(".."), "{table}");
        assert_eq!(results(&[1234.5]).json()[1]["value"], 2469.0);
    }

    #[test]
    fn runs_with_different_figures_are_not_mixed() {
        let mut results = results(&[1.0]);
        assert!(results.add(vec![figure("trap", 1.0, None)]).is_err());
    }
}
