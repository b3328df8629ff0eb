//! The figures of several runs of one benchmark, and how they are shown.

use anyhow::{Result, bail};
use serde_json::{Value, json};

use crate::bench::figures::Figure;

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

    /// An aligned table, one line a figure, numbers to the right.
    pub(super) fn table(&self) -> String {
        let mut cells = vec![["figure", "value", "unit", "instructions", "spread"].map(str::to_owned)];
        cells.extend(self.rows().iter().map(|row| {
            let spread = if self.runs.len() > 1 {
                format!("{}..{}", number(row.least), number(row.greatest))
            } else {
                String::new()
            };
            let instructions = row.median.instructions.map(number).unwrap_or_default();
            [
                row.median.name.clone(),
                number(row.median.value),
                row.median.unit.clone(),
                instructions,
                spread,
            ]
        }));
        let mut widths = [0; 5];
        for row in &cells {
            for (width, cell) in widths.iter_mut().zip(row) {
                *width = cell.len().max(*width);
            }
        }
        let [name, value, unit, instructions, spread] = widths;
        cells.iter().fold(String::new(), |table, [n, v, u, i, s]| {
            let line = format!("  {n:name$}  {v:>value$}  {u:unit$}  {i:>instructions$}  {s:>spread$}");
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
                "least": row.least,
                "greatest": row.greatest,
                "runs": self.runs.len(),
            })
        };
        self.rows().iter().map(figure).collect()
    }
}

/// A value with as many decimals as it deserves: four digits in all, or all that stand before the point.
fn number(value: f64) -> String {
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
