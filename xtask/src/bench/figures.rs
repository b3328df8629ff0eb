//! Reads the figures that a benchmark's guests print: lines `BENCH name value unit`, and how they are told by parts: lines
//! `SPLIT name kernel=N program=N between=N` or `COSTS name program=NS kernel=NS hypervisor=NS`. Lines `MARK name begins` and `MARK name ends COUNT` are for
//! [those who are served](of_server).

use std::error::Error;
use std::str::FromStr;

use anyhow::{Context, Result, bail};
use serde_json::Value;

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
        let (name, parts) = parse_parts(words, ["kernel=", "program=", "between="])
            .with_context(|| format!("parts that cannot be read: {line}"))?;
        let [kernel, program, between] = parts.map(|count: u32| f64::from(count));
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

/// Notes whose the instructions of each figure are that a guest tells in nanoseconds, as Bulkhead has told it. What the guest does to ask
/// is among them, so they may be some more than the whole.
///
/// # Errors
///
/// If one cannot be read, or is about a figure that there is not.
pub(super) fn costs(lines: &[String], figures: &mut [Figure]) -> Result<()> {
    for line in lines {
        let Some(words) = without_domain(line).strip_prefix("COSTS ") else {
            continue;
        };
        let (name, parts) = parse_parts(words, ["program=", "kernel=", "hypervisor="])
            .with_context(|| format!("costs that cannot be read: {line}"))?;
        let [program, kernel, hypervisor] = parts.map(|ns: f64| ns / NS_PER_INSTRUCTION);
        let figure = figures.iter_mut().find(|figure| figure.name == name);
        figure.with_context(|| format!("there is no {name}"))?.parts = Some(Parts {
            hypervisor,
            kernel,
            program,
        });
    }
    Ok(())
}

/// What serving its guest has cost the domain `server`, for each operation between a guest's marks: figures `NAME-server`. The control domain tells of that domain after each
/// mark, as a record in JSON, because it was asked to.
///
/// # Errors
///
/// If a mark cannot be read, or nobody tells after it.
pub(super) fn of_server(lines: &[String], server: &str) -> Result<Vec<Figure>> {
    const PARTS: [&str; 3] = ["user_ns", "kernel_ns", "hypervisor_ns"];
    let mut figures = Vec::new();
    let mut before = None;
    for (at, line) in lines.iter().enumerate() {
        let Some(mark) = without_domain(line).strip_prefix("MARK ") else {
            continue;
        };
        let told = lines.iter().skip(at).find_map(|line| {
            let (_, record) = line.split_once('{')?;
            let record: Value = serde_json::from_str(&format!("{{{record}")).ok()?;
            let is_it = record.get("name")? == server;
            let parts = PARTS.map(|part| record.get(part).and_then(Value::as_u64));
            is_it.then_some(parts)
        });
        let told = told.with_context(|| format!("nobody tells of {server} after: {line}"))?;
        let [user, kernel, hypervisor] = told.map(|ns| ns.unwrap_or_default() as f64);
        match mark.split(' ').collect::<Vec<_>>()[..] {
            [name, "begins"] => before = Some((name, [user, kernel, hypervisor])),
            [name, "ends", count] => {
                let begun = before.take().filter(|(begun, _)| *begun == name);
                let (_, before) = begun.with_context(|| format!("{name} has not begun"))?;
                let count: f64 = count.parse().with_context(|| format!("`{count}` is no number"))?;
                let each = |now: f64, before: f64| (now - before) / count / NS_PER_INSTRUCTION;
                let [was_user, was_kernel, was_hypervisor] = before;
                let parts = Parts {
                    hypervisor: each(hypervisor, was_hypervisor),
                    kernel: each(kernel, was_kernel),
                    program: each(user, was_user),
                };
                let whole = parts.hypervisor + parts.kernel + parts.program;
                figures.push(Figure {
                    name: format!("{name}-server"),
                    value: whole * NS_PER_INSTRUCTION,
                    unit: "ns".into(),
                    instructions: Some(whole),
                    parts: Some(parts),
                });
            }
            _ => bail!("a mark that cannot be read: {line}"),
        }
    }
    Ok(figures)
}

/// The instructions of the figure `name`.
fn instructions(figures: &[Figure], name: &str) -> Result<f64> {
    let figure = figures.iter().find(|figure| figure.name == name);
    figure
        .and_then(|figure| figure.instructions)
        .with_context(|| format!("there is no {name} in instructions"))
}

/// A figure's name, and a number for each of `keys`, which come in this order.
fn parse_parts<'a, T>(words: &'a str, keys: [&str; 3]) -> Result<(&'a str, [T; 3])>
where
    T: FromStr + Copy + Default,
    T::Err: Error + Send + Sync + 'static,
{
    let mut words = words.split_whitespace();
    let name = words.next().context("there is no name")?;
    let mut numbers = [T::default(); 3];
    for (number, key) in numbers.iter_mut().zip(keys) {
        let word = words.next().and_then(|word| word.strip_prefix(key));
        let word = word.with_context(|| format!("there is no {key}"))?;
        *number = word.parse().with_context(|| format!("`{word}` is no number"))?;
    }
    if let Some(word) = words.next() {
        bail!("`{word}` means nothing");
    }
    Ok((name, numbers))
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
    fn costs_in_nanoseconds_are_parts_in_instructions() {
        let mut figures = read("BENCH call 600 ns\n").unwrap();
        let line = |text: &str| vec![text.to_owned()];
        costs(
            &line("(d1) COSTS call program=6.5 kernel=13.000 hypervisor=580"),
            &mut figures,
        )
        .unwrap();
        let expected = Parts {
            hypervisor: 290.0,
            kernel: 6.5,
            program: 3.25,
        };
        assert_eq!(figures[0].parts, Some(expected));
        assert!(
            costs(
                &line("COSTS other program=6 kernel=13 hypervisor=580"),
                &mut figures
            )
            .is_err()
        );
        assert!(
            costs(
                &line("COSTS call kernel=13 program=6 hypervisor=580"),
                &mut figures
            )
            .is_err()
        );
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

    const OF_SERVER: [&str; 4] = [
        "(web) MARK read begins",
        r#"> {"name":"io","user_ns":0,"kernel_ns":1000,"hypervisor_ns":500}"#,
        "(web) MARK read ends 10",
        r#"{"name":"io","user_ns":0,"kernel_ns":2000,"hypervisor_ns":900}"#,
    ];

    #[test]
    fn who_serves_has_what_it_took_between_marks_for_each() {
        let other = r#"{"name":"other","kernel_ns":7}"#;
        let [begins, first, ends, last] = OF_SERVER;
        let lines = [begins, other, first, "text", ends, "{", last].map(str::to_owned);
        let figures = of_server(&lines, "io").unwrap();
        let expected = Figure {
            name: "read-server".into(),
            value: 140.0,
            unit: "ns".into(),
            instructions: Some(70.0),
            parts: Some(Parts {
                hypervisor: 20.0,
                kernel: 50.0,
                program: 0.0,
            }),
        };
        assert_eq!(figures, [expected]);
    }

    #[test]
    fn marks_without_a_beginning_or_an_answer_are_refused() {
        let lines = OF_SERVER.map(str::to_owned);
        assert!(of_server(&lines[..3], "io").is_err());
        assert!(of_server(&lines[2..], "io").is_err());
        assert!(of_server(&lines, "other").is_err());
        assert!(of_server(&["MARK read stops".to_owned(), lines[3].clone()], "io").is_err());
    }
}
