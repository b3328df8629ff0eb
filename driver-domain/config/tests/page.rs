//! The operators' page and the code say the same.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use bulkhead_config::{
    MAX_COMMAND_LINE, MAX_DRIVERS, MAX_FILE, MAX_GUESTS, MAX_LIST, MAX_NETWORKS, MAX_PARTITION_NAME,
    MAX_PROBLEMS, MAX_RULES_TEXT, MAX_VCPUS, Name, NetworkName, OnePiece, Subnet, parse,
};
use std::collections::BTreeMap;

const PAGE: &str = include_str!("../../docs/configuration.md");

/// The texts between ```` ```LANGUAGE ```` and ```` ``` ````.
fn blocks(language: &str) -> Vec<&'static str> {
    let begin = format!("```{language}\n");
    let behind = PAGE.split(&*begin).skip(1);
    behind.map(|text| text.split("```").next().unwrap()).collect()
}

/// The kinds of sections: their names, and the least that one says.
const SECTIONS: [(&str, &str); 3] = [
    ("driver", "[[driver]]\nname = \"io\"\ndevices = [\"net\"]\n"),
    (
        "network",
        "[[driver]]\nname = \"io\"\ndevices = [\"net\"]\n[[network]]\nname = \"red\"\nsubnet = \"10.10.1.0/24\"\n",
    ),
    (
        "guest",
        "[[guest]]\nname = \"web\"\nkernel = \"httpd\"\nmemory = \"32M\"\n",
    ),
];

/// The rows of a section's table of keys: what stands in each column.
fn rows(section: &str) -> BTreeMap<&'static str, [&'static str; 2]> {
    let section = PAGE
        .split(&format!("\n## `[[{section}]]`\n"))
        .nth(1)
        .unwrap()
        .split("\n## ")
        .next()
        .unwrap();
    let rows = section.lines().filter_map(|line| line.strip_prefix("| `"));
    rows.map(|row| {
        let mut columns = row.trim_end_matches(" |").split(" | ");
        let key = columns.next().unwrap().trim_end_matches('`');
        (key, [columns.next().unwrap(), columns.next().unwrap()])
    })
    .collect()
}

/// The keys that a section has, from what is said of one that it has not.
fn keys(least: &str) -> Vec<String> {
    let file = format!("{least}no-such-key-at-all = 1\n");
    let problems = parse(file.as_bytes()).unwrap_err().to_string();
    let list = problems
        .lines()
        .find_map(|line| line.split_once("; it has "))
        .unwrap()
        .1;
    list.split(", ").map(str::to_owned).collect()
}

#[test]
fn the_example_is_a_configuration_with_every_key() {
    let [example] = blocks("toml")[..] else {
        panic!("one example");
    };
    let config = parse(example.as_bytes()).unwrap_or_else(|problems| panic!("{}", problems.of("example")));
    let counts = (
        config.drivers().len(),
        config.networks().len(),
        config.guests().len(),
    );
    assert_eq!(counts, (1, 1, 2));
    for key in SECTIONS.iter().flat_map(|(_, least)| keys(least)) {
        let line = format!("\n{key} = ");
        assert!(example.contains(&line), "the example says nothing of {key}");
    }
}

#[test]
fn the_table_has_the_keys_that_there_are() {
    for (section, least) in SECTIONS {
        let mut keys = keys(least);
        keys.sort();
        assert_eq!(rows(section).into_keys().collect::<Vec<_>>(), keys);
    }
}

#[test]
fn a_default_is_what_the_page_calls_it() {
    let of = |(section, least)| rows(section).into_iter().map(move |row| (row, section, least));
    for ((key, [_, default]), section, least) in SECTIONS.into_iter().flat_map(of) {
        let usual = parse(least.as_bytes()).unwrap();
        let Some(value) = default.strip_prefix('`').map(|value| value.trim_end_matches('`')) else {
            let is_told = match key {
                "name" | "kernel" | "memory" | "devices" | "subnet" => default == "required",
                "ramdisk" | "disk" | "network" | "subnet6" | "rules" | "uplink-router" => default == "none",
                "driver" => default == "the only one that can",
                "uplink-dns" => default == "as DHCP says",
                "command-line" => default == "empty",
                "max-memory" => default == "as `memory`",
                _ => false,
            };
            assert!(is_told, "{section}, {key}: {default}");
            continue;
        };
        let written = format!("{least}{key} = {value}\n");
        assert_eq!(parse(written.as_bytes()).as_ref(), Ok(&usual), "{key} = {value}");
    }
}

#[test]
fn what_is_said_of_a_bad_file_is_what_the_page_shows() {
    let file = "\n\n\n[[guest]]\nname = \"web\"\nkernel = \"httpd\"\nmemory = \"lots\"\nvcpu = 2\n";
    let [shown] = blocks("text")[..] else {
        panic!("one listing");
    };
    assert_eq!(
        parse(file.as_bytes())
            .unwrap_err()
            .of("bulkhead.toml")
            .to_string(),
        shown
    );
}

#[test]
fn limits_are_as_the_page_has_them() {
    let (driver, guest) = (rows("driver"), rows("guest"));
    let most = format!("{}M", 4 << OnePiece::MAX_ORDER >> 10);
    assert!(driver["memory"][0].contains(&most));
    assert!(driver["devices"][0].contains(&format!("1 to {MAX_LIST}")));
    let says = |key: &str, words: String| assert!(guest[key][0].contains(&words), "{key}: {words}");
    says("disk", format!("at most {MAX_LIST}"));
    assert!(PAGE.contains(&format!("1 to {MAX_PARTITION_NAME} characters")));
    says("network", format!("at most {MAX_LIST}"));
    let network = rows("network");
    for reserved in NetworkName::RESERVED.into_iter().chain(NetworkName::COMMANDS) {
        assert!(network["name"][0].contains(&format!("`{reserved}`")));
    }
    let [shortest, longest] = Subnet::LENGTHS;
    assert!(network["subnet"][0].contains(&format!("{shortest} to {longest} bits")));
    assert!(network["rules"][0].contains(&format!("{} KiB", MAX_RULES_TEXT >> 10)));
    says("name", format!("1 to {} letters", Name::MAX));
    for reserved in Name::RESERVED {
        says("name", format!("`{reserved}`"));
    }
    says("command-line", format!("at most {MAX_COMMAND_LINE} bytes"));
    says("vcpus", format!("1 to {MAX_VCPUS}"));
    for (what, limit) in [
        ("the file", format!("{} KiB", MAX_FILE >> 10)),
        ("guests", MAX_GUESTS.to_string()),
        ("drivers", MAX_DRIVERS.to_string()),
        ("networks", MAX_NETWORKS.to_string()),
        ("interfaces of a guest", MAX_LIST.to_string()),
        ("disks of a guest", MAX_LIST.to_string()),
        ("problems told", MAX_PROBLEMS.to_string()),
    ] {
        assert!(PAGE.contains(&format!("| {what} | {limit} |")), "{what}");
    }
}
