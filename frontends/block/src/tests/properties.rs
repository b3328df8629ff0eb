//! What back-ends say of disks.

use std::collections::BTreeMap;

use super::*;

const LEAST: [(&str, &str); 3] = [("sectors", "131072"), ("info", "0"), ("sector-size", "512")];

fn read(more: &[(&'static str, &'static str)]) -> Result<Properties, BadKey> {
    let nodes: BTreeMap<_, _> = LEAST.iter().chain(more).copied().collect();
    Properties::read(|key| nodes.get(key).map(|value| (*value).to_owned()), true)
}

#[test]
fn a_back_end_may_say_little() {
    let expected = Properties {
        sectors: 131_072,
        physical_sector_size: 512,
        flush: Flush::Never,
        discard: None,
        ..PROPERTIES
    };
    assert_eq!(read(&[]), Ok(expected));
}

#[test]
fn what_a_back_end_can_do_is_taken_up() {
    let all = read(&[
        ("sector-size", "4096"),
        ("info", "7"),
        ("feature-flush-cache", "1"),
        ("feature-barrier", "1"),
        ("feature-discard", "1"),
        ("discard-granularity", "65536"),
        ("discard-secure", "1"),
        ("feature-persistent", "1"),
        ("feature-max-indirect-segments", "100000"),
    ])
    .unwrap();
    assert!(all.is_read_only() && all.is_removable() && all.is_cdrom() && all.is_persistent);
    assert_eq!((all.flush, all.segments), (Flush::Cache, 256));
    let discard = Discard {
        granularity: 65536,
        alignment: 0,
        is_secure: true,
    };
    assert_eq!(all.discard, Some(discard));
    let few = read(&[("feature-max-indirect-segments", "5"), ("feature-barrier", "1")]).unwrap();
    assert_eq!(
        (few.flush, few.segments),
        (Flush::Barrier, 11),
        "lists as short as that are of no use"
    );
}

#[test]
fn a_disk_that_cannot_be_is_refused_with_the_node_that_says_so() {
    for (key, value) in [
        ("sectors", "many"),
        ("sectors", "-1"),
        ("info", "4294967296"),
        ("sector-size", "0"),
        ("sector-size", "256"),
        ("sector-size", "1000"),
        ("sector-size", "8192"),
    ] {
        let bad = read(&[(key, value)]).unwrap_err();
        assert_eq!((bad.key, bad.value.as_deref()), (key, Some(value)));
    }
    let missing = Properties::read(|_| None, true).unwrap_err();
    assert_eq!(missing.to_string(), "`sector-size` is missing");
}
