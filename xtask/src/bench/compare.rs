//! Figures of a Linux guest beside those of the same program and kernel on the bare machine, the project's aims, and what Xen takes.

use crate::bench::results::{Results, number};

/// What is known of a figure beforehand.
struct Known {
    figure: &'static str,
    /// How many times the bare machine's it shall take at most.
    aim: f64,
    /// How many times the bare machine's Xen 4.17 takes, where it cannot be had: measured by `cargo xtask bench linux --icount` on `-cpu qemu64`, one CPU.
    xen: f64,
}

const fn known(figure: &'static str, aim: f64, xen: f64) -> Known {
    Known { figure, aim, xen }
}

const KNOWN: &[Known] = &[
    known("linux-integer-loop", 1.0, 1.01),
    known("linux-null-call", 1.6, 3.37),
    known("linux-clock-gettime", 1.1, 16.9),
    known("linux-open-close", 1.15, 1.27),
    known("linux-signal", 1.25, 1.58),
    known("linux-protection-fault", 1.3, 1.5),
    known("linux-context-switch", 1.4, 1.79),
    known("linux-fork-exit", 2.0, 3.9),
    known("linux-fork-exec", 1.7, 3.11),
    known("linux-shell", 1.7, 2.8),
    known("linux-fault-anonymous", 1.5, 2.08),
    known("linux-mmap-8m-file", 2.0, 3.96),
    known("linux-fault-file", 1.8, 3.25),
    known("linux-tcp-loopback", 1.2, 1.36),
    known("linux-compile", 1.35, 1.49),
];

/// By how much a figure may be above its aim: as much as it may differ from one run to the next.
const TOLERANCE: f64 = 0.01;

/// A table: each figure in microseconds on the bare machine, as a guest and, if that was measured, as a guest of Xen; how many times the bare machine's it takes, how many times
/// it shall take at most, and how many times Xen takes, measured or as it is known.
pub(super) fn table(guest: &Results, bare: &Results, xen: Option<&Results>) -> String {
    let mut table = format!(
        "  {:24}{:>10}{:>10}{:>10}{:>8}{:>8}{:>8}\n",
        "figure", "bare us", "guest us", "Xen us", "times", "aim", "Xen"
    );
    for guest in guest.medians() {
        let name = &guest.name;
        let Some(bare) = bare.value(name) else {
            continue;
        };
        let xen = xen.and_then(|xen| xen.value(name));
        let known = KNOWN.iter().find(|known| known.figure == name);
        // Aims are about instructions.
        let known = known.filter(|_| guest.instructions.is_some());
        let times = guest.value / bare;
        let is_missed = known.is_some_and(|known| times > known.aim + TOLERANCE);
        let of_xen = xen.map(|xen| xen / bare).or(known.map(|known| known.xen));
        let us = |ns: f64| number(ns / 1000.0);
        let ratio = |times: Option<f64>| times.map(|times| format!("{times:.2}")).unwrap_or_default();
        table += &format!(
            "  {name:24}{:>10}{:>10}{:>10}{times:>8.2}{:>8}{:>8}{}\n",
            us(bare),
            us(guest.value),
            xen.map(us).unwrap_or_default(),
            ratio(known.map(|known| known.aim)),
            ratio(of_xen),
            if is_missed { "  missed" } else { "" },
        );
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::figures::{Figure, of_console};

    fn figures(lines: &[&str]) -> Vec<Figure> {
        let lines: Vec<String> = lines.iter().map(|line| (*line).to_owned()).collect();
        of_console(&lines).unwrap()
    }

    fn results(figures: Vec<Figure>) -> Results {
        let mut results = Results::default();
        results.add(figures).unwrap();
        results
    }

    /// By a clock that counts instructions.
    fn counted(lines: &[&str]) -> Results {
        let mut figures = figures(lines);
        figures.iter_mut().for_each(Figure::count_instructions);
        results(figures)
    }

    #[test]
    fn a_figure_stands_beside_its_aim_and_says_if_that_is_missed() {
        let bare = counted(&[
            "BENCH linux-null-call 700 ns",
            "BENCH linux-signal 7000 ns",
            "BENCH else 2 ns",
        ]);
        let guest = counted(&[
            "BENCH linux-null-call 2100 ns",
            "BENCH linux-signal 8400 ns",
            "BENCH else 3 ns",
            "BENCH nowhere-else 3 ns",
        ]);
        let expected = [
            "  figure                     bare us  guest us    Xen us   times     aim     Xen\n",
            "  linux-null-call              0.700     2.100              3.00    1.60    3.37  missed\n",
            "  linux-signal                 7.000     8.400              1.20    1.25    1.58\n",
            "  else                         0.002     0.003              1.50                \n",
        ];
        assert_eq!(table(&guest, &bare, None), expected.concat());
    }

    #[test]
    fn what_was_measured_on_xen_stands_there_instead_of_what_is_known() {
        let [bare, guest, xen] =
            [700, 840, 1400].map(|ns| counted(&[&format!("BENCH linux-null-call {ns} ns")]));
        let expected = [
            "  figure                     bare us  guest us    Xen us   times     aim     Xen\n",
            "  linux-null-call              0.700     0.840     1.400    1.20    1.60    2.00\n",
        ];
        assert_eq!(table(&guest, &bare, Some(&xen)), expected.concat());
    }

    #[test]
    fn by_the_hosts_clock_nothing_is_missed() {
        let [bare, guest] = [1, 9].map(|ns| results(figures(&[&format!("BENCH linux-null-call {ns} ns")])));
        let table = table(&guest, &bare, None);
        assert!(
            table.ends_with("0.001     0.009              9.00                \n"),
            "{table}"
        );
    }
}
