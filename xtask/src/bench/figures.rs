//! Reads the figures that a benchmark's guests print: lines `BENCH name value unit`, and how they are told by parts: lines
//! `SPLIT name kernel=N program=N between=N`.

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
    /// Whose instructions these are, where that is known.
    pub(super) parts: Option<Parts>,
}

/// Whose the instructions of a figure are.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Parts {
    pub(super) hypervisor: f64,
    /// The guest's kernel's.
    pub(super) kernel: f64,
    /// The guest's program's.
    pub(super) program: f64,
}

/// By how much two ways to count the same instructions may differ: guests report whole ticks, of which two make an instruction.
const TOLERANCE: f64 = 0.5;

impl Figure {
    /// Tells a time by a clock that advances with instructions, and the counter of the same rate, in instructions as well; of a rate, what each packet takes.
    pub(super) fn count_instructions(&mut self) {
        let ns = match self.unit.as_str() {
            "ns" | "cycles" => self.value,
            "us" => self.value * 1e3,
            "packets/s" if self.value > 0.0 => 1e9 / self.value,
            _ => return,
        };
        self.instructions = Some(ns / NS_PER_INSTRUCTION);
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

/// The sizes of images, each with its name.
pub(super) fn of_images(images: &[(String, u64)]) -> impl Iterator<Item = Figure> {
    let figure = |(name, bytes): &(String, u64)| Figure {
        name: format!("image-{name}"),
        value: *bytes as f64 / f64::from(1 << 20),
        unit: "MiB".into(),
        instructions: None,
        parts: None,
    };
    images.iter().map(figure)
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
        parts: None,
    })
}

/// Notes whose the instructions of each figure are that the console tells by parts.
///
/// What the guest executes it knows, and says: of its kernel, of its program, and how many of these lie between its stamps. All else
/// is the hypervisor's. It must be as many as there are between stamps, which is the figure's `-in-hypervisor`, besides the guest's.
///
/// # Errors
///
/// If one cannot be read, is about figures that there are not, or does not add up to the whole.
pub(super) fn split(lines: &[String], figures: &mut [Figure]) -> Result<()> {
    for line in lines {
        let Some(words) = without_domain(line).strip_prefix("SPLIT ") else {
            continue;
        };
        let (name, [kernel, program, between]) =
            parse_split(words).with_context(|| format!("parts that cannot be read: {line}"))?;
        let stamped = instructions(figures, &format!("{name}-in-hypervisor"))?;
        let whole = instructions(figures, name)?;
        let hypervisor = whole - kernel - program;
        let counted = stamped - between;
        if (hypervisor - counted).abs() > TOLERANCE {
            bail!("the parts of {name} do not add up to {whole}: {counted} + {kernel} + {program}");
        }
        let parts = Parts {
            hypervisor,
            kernel,
            program,
        };
        for figure in figures.iter_mut().filter(|figure| figure.name == name) {
            figure.parts = Some(parts);
        }
    }
    Ok(())
}

/// The instructions of the figure `name`.
fn instructions(figures: &[Figure], name: &str) -> Result<f64> {
    let figure = figures.iter().find(|figure| figure.name == name);
    figure
        .and_then(|figure| figure.instructions)
        .with_context(|| format!("there is no {name} in instructions"))
}

/// A figure's name, and the instructions that are its kernel's, its program's, and between stamps.
fn parse_split(words: &str) -> Result<(&str, [f64; 3])> {
    let mut words = words.split_whitespace();
    let name = words.next().context("there is no name")?;
    let mut counts = [0.0; 3];
    for (count, key) in counts.iter_mut().zip(["kernel=", "program=", "between="]) {
        let word = words.next().and_then(|word| word.strip_prefix(key));
        let word = word.with_context(|| format!("there is no {key}"))?;
        let number: u32 = word.parse().with_context(|| format!("`{word}` is no number"))?;
        *count = number.into();
    }
    if let Some(word) = words.next() {
        bail!("`{word}` means nothing");
    }
    Ok((name, counts))
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
                parts: None,
            },
            Figure {
                name: "trap".into(),
                value: 1.5,
                unit: "us".into(),
                instructions: None,
                parts: None,
            },
        ];
        assert_eq!(figures, expected);
    }

    #[test]
    fn a_time_and_a_rate_are_told_in_instructions_and_anything_else_is_not() {
        let lines = "BENCH trap 412 ns\nBENCH size 3 MiB\nBENCH ping 3 us\nBENCH rate 100000 packets/s\n";
        let mut figures = read(lines).unwrap();
        figures.iter_mut().for_each(Figure::count_instructions);
        let instructions: Vec<_> = figures.iter().map(|figure| figure.instructions).collect();
        assert_eq!(instructions, [Some(206.0), None, Some(1500.0), Some(5000.0)]);
    }

    const SPLIT: &str = "BENCH call 600 ns\nBENCH call-in-hypervisor 594 cycles\n";

    /// The figures of a console on a clock that counts instructions, by parts.
    fn read_split(console: &str) -> Result<Vec<Figure>> {
        let mut figures = read(console)?;
        figures.iter_mut().for_each(Figure::count_instructions);
        let lines: Vec<String> = console.lines().map(str::to_owned).collect();
        split(&lines, &mut figures).map(|()| figures)
    }

    #[test]
    fn what_is_not_the_guests_is_the_hypervisors() {
        let figures = read_split(&format!("{SPLIT}(d1) SPLIT call kernel=8 program=3 between=8\n")).unwrap();
        let expected = Parts {
            hypervisor: 289.0,
            kernel: 8.0,
            program: 3.0,
        };
        assert_eq!(figures[0].parts, Some(expected));
        assert_eq!(figures[1].parts, None);
    }

    #[test]
    fn parts_that_do_not_add_up_to_the_whole_are_refused() {
        let error = read_split(&format!("{SPLIT}SPLIT call kernel=10 program=3 between=8\n")).unwrap_err();
        assert!(error.to_string().contains("do not add up to 300"), "{error}");
    }

    #[test]
    fn senseless_parts_and_parts_of_nothing_are_refused() {
        for line in [
            "SPLIT call",
            "SPLIT call kernel=8 program=3",
            "SPLIT call kernel=8 between=8 program=3",
            "SPLIT call kernel=8 program=-3 between=8",
            "SPLIT call kernel=8 program=3 between=8 1",
            "SPLIT other kernel=8 program=3 between=8",
        ] {
            assert!(read_split(&format!("{SPLIT}{line}\n")).is_err(), "{line}");
        }
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
