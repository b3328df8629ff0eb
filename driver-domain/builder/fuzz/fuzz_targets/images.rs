//! Any bytes as a kernel: it is refused, or laid out so that every part lies inside the domain and apart from the others, and made into a guest
//! whole or not at all.
#![no_main]

use bulkhead_abi::DomId;
use bulkhead_builder::testing::Model;
use bulkhead_builder::{Bytes, GuestSpec, build};
use bulkhead_image::{Image, Plan};
use core::ops::Range;
use core::pin::pin;
use embassy_futures::block_on;
use libfuzzer_sys::fuzz_target;

const PAGES: u64 = 2048;
const RAMDISK: &[u8] = &[3; 5000];

/// No page is part of two things, and all are the domain's.
fn check(plan: &Plan) {
    let page = |pfn: u64| pfn..pfn + 1;
    let mut parts: Vec<Range<u64>> = vec![
        plan.ramdisk.clone().unwrap_or_default(),
        plan.p2m.clone(),
        page(plan.start_info),
        page(plan.store),
        page(plan.console),
        plan.region.tables.clone(),
        page(plan.stack),
    ];
    parts.extend(plan.p2m_mapping.iter().map(|mapping| mapping.tables.clone()));
    parts.retain(|part| !part.is_empty());
    parts.sort_by_key(|part| part.start);
    for pair in parts.windows(2) {
        assert!(pair[0].end <= pair[1].start, "{plan:?}");
    }
    assert!(parts.iter().all(|part| part.end <= plan.pages), "{plan:?}");
    for entry in plan.entries() {
        assert!(plan.is_table(entry.table) && entry.index < 512 && entry.child < plan.pages);
    }
}

fuzz_target!(|bytes: &[u8]| {
    let Ok(image) = Image::parse(bytes) else { return };
    if let Ok(plan) = Plan::new(&image, PAGES, Some(RAMDISK.len() as u64)) {
        check(&plan);
    }
    let spec = GuestSpec {
        domain: None,
        name: "guest",
        vcpus: 1,
        weight: 256,
        cpus: 1,
        pages: PAGES,
        most_pages: 0,
        extent: None,
        command_line: "",
        store: DomId::new(0),
        console: DomId::new(0),
    };
    let mut model = Model::new(11, 9);
    let built = block_on(pin!(build(&mut model, &spec, &image, Some(&mut Bytes(RAMDISK)))));
    assert_eq!(built.is_ok(), model.domain.is_some());
});
