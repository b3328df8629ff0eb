//! Reads the figures that a benchmark's guests print: lines `BENCH name value unit`.

use anyhow::{Context, Result, bail};

use crate::console::without_domain;
use crate::qemu::NS_PER_INSTRUCTION;

/// One figure of one run.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Figure {
    pub(super) name: String,
    pub(super) value: f64,
    pub(super) unit: String,
    /// The same in instructions, where the machine's clock counts them.
    pub(super) instructions: Option<f64>,
}

impl Figure {
    /// Tells a time by a clock that advances with instructions, and the counter of the same rate, in instructions as well.
    pub(super) fn count_instructions(&mut self) {
        if ["ns", "cycles"].contains(&self.unit.as_str()) {
            self.instructions = Some(self.value / NS_PER_INSTRUCTION);
        }
    }
}

/// The figures on a console, in its order.
///
/// # Errors
///
/// If there are none, one cannot be read, or a name comes twice.
pub(super) fn of_console(lines: &[String]) -> Result<Vec<Figure>> {
    let mut figures: Vec<Figure> = Vec::new();
    for line in lines {
        let Some(words) = without_domain(line).strip_prefix("BENCH ") else {
            continue;
        };
        let figure = parse(words).with_context(|| format!("a figure that cannot be read: {line}"))?;
        if figures.iter().any(|known| known.name == figure.name) {
            bail!("the figure {} came twice", figure.name);
        }
        figures.push(figure);
    }
    if figures.is_empty() {
        bail!("the benchmark reported no figure");
    }
    Ok(figures)
}

fn parse(words: &str) -> Result<Figure> {
    let mut words = words.split_whitespace();
    let (Some(name), Some(value), Some(unit)) = (words.next(), words.next(), words.next()) else {
        bail!("a figure has a name, a value and a unit");
    };
    let value: f64 = value
        .parse()
        .with_context(|| format!("`{value}` is not a number"))?;
    if !value.is_finite() {
        bail!("{value} is not finite");
    }
    if let Some(word) = words.next() {
        bail!("`{word}` means nothing");
    }
    Ok(Figure {
        name: name.into(),
        value,
        unit: unit.into(),
        instructions: None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(console: &str) -> Result<Vec<Figure>> {
        of_console(&console.lines().map(str::to_owned).collect::<Vec<_>>())
    }

    #[test]
    fn figures_of_every_domain_are_read_in_order() {
        let figures = read("hello\n(d1) BENCH null-hypercall 412 ns\nBENCH trap 1.5 us\n").unwrap();
        let expected = [
            Figure {
                name: "null-hypercall".into(),
                value: 412.0,
                unit: "ns".into(),
                instructions: None,
            },
            Figure {
                name: "trap".into(),
                value: 1.5,
                unit: "us".into(),
                instructions: None,
            },
        ];
        assert_eq!(figures, expected);
    }

    #[test]
    fn a_time_is_told_in_instructions_and_anything_else_is_not() {
        let mut figures = read("BENCH trap 412 ns\nBENCH size 3 MiB\n").unwrap();
        figures.iter_mut().for_each(Figure::count_instructions);
        let instructions: Vec<_> = figures.iter().map(|figure| figure.instructions).collect();
        assert_eq!(instructions, [Some(206.0), None]);
    }

    #[test]
    fn a_torn_or_senseless_figure_is_refused() {
        for line in [
            "BENCH trap",
            "BENCH trap 1",
            "BENCH trap fast us",
            "BENCH trap 1 us 3",
        ] {
            assert!(read(line).is_err(), "{line}");
        }
        assert!(read("BENCH trap NaN us").is_err());
    }

    #[test]
    fn no_figure_at_all_and_one_twice_are_refused() {
        assert!(read("hello\n").is_err());
        assert!(read("BENCH trap 1 us\n(d1) BENCH trap 2 us\n").is_err());
    }
}
