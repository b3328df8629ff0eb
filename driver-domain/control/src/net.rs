//! What the operator's commands about networks do.

use alloc::{
    format,
    string::{String, ToString},
    vec::Vec,
};

use bulkhead_control::{
    networks, packets,
    pcap::{self, Base64, Reader},
};
use bulkhead_netback::vfr::rules::Rule;
use bulkhead_runtime::DomId;
use bulkhead_shell::show::{RuleRow, render};

use crate::{Control, asking, asking::Asked, interfaces};

type Done = Result<(), String>;

/// Shows the rules of a network with what each matched.
pub(crate) async fn rules(control: &Control, name: &str, is_json: bool) -> Done {
    let network = interfaces::find(&control.config.borrow(), name)?;
    // A driver that does not answer has counted nothing that anybody knows.
    let counted = match interfaces::driver_for(control, name) {
        Ok(driver) => asking::text(control, driver, &format!("rules {name}")).await,
        Err(error) => Err(error),
    };
    let counted = counted.unwrap_or_default();
    let lines = network.rules().lines().filter_map(|(_, rule)| rule.ok());
    let mut rows = Vec::new();
    for ((number, rule), counted) in (1..).zip(lines).zip(
        counted
            .iter()
            .map(|line| networks::counted_rule(line))
            .chain(core::iter::repeat(None)),
    ) {
        let rule = rule.to_string();
        // Rules that were changed meanwhile have other counts.
        let counted = counted.filter(|(_, _, told)| *told == rule);
        rows.push(RuleRow {
            number,
            packets: counted.map(|(packets, ..)| packets),
            bytes: counted.map(|(_, bytes, _)| bytes),
            rule,
        });
    }
    control
        .terminal
        .print_all(&render(rows.as_slice(), is_json))
        .await;
    Ok(())
}

/// Reads a rule as it was typed.
fn read(rule: &str) -> Result<String, String> {
    let rule =
        Rule::parse(rule).map_err(|mistake| format!("column {}: {}", mistake.column, mistake.sentence))?;
    Ok(rule.to_string())
}

/// Adds a rule in a place, counted from 1, or behind the others.
pub(crate) async fn add_rule(control: &Control, name: &str, at: Option<u32>, rule: &str) -> Done {
    let network = interfaces::find(&control.config.borrow(), name)?;
    let count = network.rules().lines().count();
    let place = match at {
        None => count,
        Some(at) => place(at, count.saturating_add(1), name)?,
    };
    let rules = network.rules().with(place, &read(rule)?);
    interfaces::set_rules(control, name, &rules).await
}

/// Removes a rule.
pub(crate) async fn delete_rule(control: &Control, name: &str, number: u32) -> Done {
    let network = interfaces::find(&control.config.borrow(), name)?;
    let place = place(number, network.rules().lines().count(), name)?;
    interfaces::set_rules(control, name, &network.rules().without(place)).await
}

/// Gives a network these rules in the place of its own.
pub(crate) async fn set_rules(control: &Control, name: &str, rules: &[String]) -> Done {
    interfaces::find(&control.config.borrow(), name)?;
    let read: Result<Vec<String>, String> = (1..)
        .zip(rules)
        .map(|(number, rule): (u32, &String)| read(rule).map_err(|error| format!("rule {number}, {error}")))
        .collect();
    interfaces::set_rules(control, name, &read?.join("\n")).await
}

/// The place of a rule, from 0, by its number among so many.
fn place(number: u32, most: usize, name: &str) -> Result<usize, String> {
    let place = usize::try_from(number)
        .ok()
        .and_then(|number| number.checked_sub(1));
    place.filter(|place| *place < most).ok_or_else(|| {
        format!(
            "there is no place {number} among the rules of {name}; `net rules {name}` shows their numbers"
        )
    })
}

/// Asks a driver, and shows what it answers.
async fn show(control: &Control, driver: DomId, question: &str) -> Done {
    let lines = asking::text(control, driver, question).await?;
    control.terminal.print_all(&lines.join("\n")).await;
    Ok(())
}

/// Shows what the driver of an interface says of it; or what all drivers say of all.
pub(crate) async fn of_vif(control: &Control, what: &str, vif: Option<&str>) -> Done {
    if let Some(vif) = vif {
        let driver = interfaces::driver_with(control, vif)?;
        return show(control, driver, &format!("{what} {vif}")).await;
    }
    for driver in interfaces::drivers(control) {
        show(control, driver, what).await?;
    }
    Ok(())
}

/// Shows what a network's driver says of its leases.
pub(crate) async fn leases(control: &Control, network: &str) -> Done {
    let driver = interfaces::driver_for(control, network)?;
    show(control, driver, &format!("leases {network}")).await
}

/// Shows what becomes of a packet, and why.
pub(crate) async fn why(control: &Control, vif: &str, packet: &str) -> Done {
    let driver = interfaces::driver_with(control, vif)?;
    show(control, driver, &format!("why {vif} {packet}")).await
}

/// A file that ends when this is dropped, also if the operator stops the command.
struct File<'a> {
    control: &'a Control,
    base64: Base64,
}

impl File<'_> {
    fn push(&mut self, bytes: &[u8]) {
        for line in self.base64.push(bytes) {
            self.control.terminal.print(&line);
        }
    }
}

impl Drop for File<'_> {
    fn drop(&mut self) {
        let rest = self.base64.rest();
        for line in rest.as_deref().into_iter().chain(["===="]) {
            self.control.terminal.print(line);
        }
    }
}

/// Shows packets as they pass: so many, or until the operator stops it.
pub(crate) async fn capture(
    control: &Control,
    vif: &str,
    count: Option<u32>,
    snap: Option<u32>,
    is_file: bool,
) -> Done {
    let driver = interfaces::driver_with(control, vif)?;
    let snap = snap.map_or_else(String::new, |snap| format!(" {snap}"));
    let mut asked = Asked::new(control, driver, &format!("capture {vif}{snap}"))?;
    let mut file = is_file.then(|| {
        control.terminal.print(&format!("begin-base64 644 {vif}.pcap"));
        File {
            control,
            base64: Base64::default(),
        }
    });
    if let Some(file) = &mut file {
        file.push(&pcap::header());
    }
    let mut reader = Reader::default();
    let mut left = count.unwrap_or(u32::MAX);
    while left > 0
        && let Some(piece) = asked.next().await?
    {
        reader.push(&piece);
        while left > 0
            && let Some(packet) = reader
                .packet()
                .map_err(|_| String::from("what the driver sends is no capture"))?
        {
            if count.is_some() {
                left = left.saturating_sub(1);
            }
            match &mut file {
                Some(file) => file.push(&packet.record()),
                None => control.terminal.print(&packets::line(&packet)),
            }
        }
    }
    Ok(())
}
