//! Several hostile guests, and domain 0 at work among them: no law of the store may break, no guest may cost more
//! than its quotas, and guests that stop their mischief are served.
#![no_main]

use bulkhead_abi::DomId;
use bulkhead_bus::wire::Decoder;
use bulkhead_xenstore::{Access, End, Path, Perm, Perms, Place, Quotas, Special, Store, Tx};
use libfuzzer_sys::fuzz_target;

/// Small enough to be met.
const QUOTAS: Quotas = Quotas {
    nodes: 24,
    node_bytes: 256,
    perms: 4,
    watches: 6,
    transactions: 3,
    transaction_bytes: 4096,
    events: 8,
    event_bytes: 512,
    history_bytes: 16 << 10,
};

const GUESTS: u8 = 3;

/// Names that make requests meet. A byte below their number stands for one.
const WORDS: [&str; 24] = [
    "data",
    "data/a",
    "data/a/b",
    "data/b",
    "/",
    "/local",
    "/local/domain/1",
    "/local/domain/1/data",
    "/local/domain/2/data/a",
    "/local/domain/3/data/b",
    "@releaseDomain",
    "@introduceDomain",
    "T",
    "F",
    "0",
    "1",
    "2",
    "3",
    "n1",
    "r2",
    "b3",
    "n1\0b2",
    "token",
    "",
];

fuzz_target!(|bytes: &[u8]| {
    let mut store = Store::with_quotas(QUOTAS);
    let open = Perms {
        owner: Perm::new(Access::Both, DomId::new(0)),
        listed: vec![],
    };
    let special = Place::Special(Special::ReleaseDomain);
    store.set_perms(Tx::NONE, &special, open).expect("domain 0 may");
    for guest in 1..=GUESTS {
        welcome(&mut store, DomId::new(guest.into()));
    }
    let mut decoders = [const { Decoder::new() }; GUESTS as usize];
    let mut bytes = bytes.iter().copied();
    while let Some(act) = bytes.next() {
        let index = act % GUESTS;
        let guest = DomId::new(u16::from(index) + 1);
        match act / GUESTS {
            0..=55 => {
                let message = message(&mut bytes);
                feed(&mut store, guest, &message);
            }
            56 => {
                let count = bytes.next().unwrap_or_default();
                let raw: Vec<u8> = bytes.by_ref().take(count.into()).collect();
                feed(&mut store, guest, &raw);
            }
            57..=73 => {
                let mut room = vec![0; bytes.next().unwrap_or_default().into()];
                let taken = store.take_output(guest, &mut room);
                read(&mut decoders[usize::from(index)], &room[..taken]);
            }
            74..=79 => control(&mut store, &mut bytes),
            80 => {
                store.reconnect(guest);
                decoders[usize::from(index)] = Decoder::new();
            }
            81.. => {
                store.release(guest);
                store.invariants();
                store.introduce(guest).expect("it is gone");
                decoders[usize::from(index)] = Decoder::new();
            }
        }
        store.invariants();
    }
    for guest in 1..=GUESTS {
        let guest = DomId::new(guest.into());
        store.reconnect(guest);
        store.feed(guest, &[10, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, b'9', 0]);
        let mut reply = [0; 64];
        let taken = store.take_output(guest, &mut reply);
        assert_eq!(&reply[16..taken], b"/local/domain/9\0");
    }
});

fn path(text: &str) -> Path {
    Path::parse(text.as_bytes(), DomId::new(0)).expect("a path")
}

/// A guest with a home, in which the others may write.
fn welcome(store: &mut Store, guest: DomId) {
    store.introduce(guest).expect("it is new");
    let data = path(&format!("/local/domain/{}/data", guest.raw()));
    store.mkdir(Tx::NONE, &data).expect("domain 0 may");
    let perms = Perms {
        owner: Perm::new(Access::Both, guest),
        listed: vec![],
    };
    store
        .set_perms(Tx::NONE, &Place::Node(data), perms)
        .expect("domain 0 may");
}

/// A message that is well formed but for what the bytes say.
fn message(bytes: &mut impl Iterator<Item = u8>) -> Vec<u8> {
    let mut next = || bytes.next().unwrap_or_default();
    let (kind, shape) = (next() % 24, next());
    let mut payload = Vec::new();
    for _ in 0..shape % 4 {
        let word = next();
        match WORDS.get(usize::from(word)) {
            Some(text) => payload.extend(text.as_bytes()),
            None => payload.extend(std::iter::repeat_n(word, usize::from(word))),
        }
        payload.push(0);
    }
    if shape & 0x80 != 0 {
        payload.pop();
    }
    let tx = u32::from(shape >> 2 & 3);
    let len = u32::try_from(payload.len()).expect("short");
    [
        [u32::from(kind), 7, tx, len].map(u32::to_le_bytes).concat(),
        payload,
    ]
    .concat()
}

/// As an owner does it: when the store wants it.
fn feed(store: &mut Store, guest: DomId, bytes: &[u8]) {
    if store.wants_input(guest) {
        store.feed(guest, bytes);
    }
}

/// What the store says is the protocol.
fn read(decoder: &mut Decoder, mut bytes: &[u8]) {
    while !bytes.is_empty() {
        let (used, message) = decoder.feed(bytes).expect("the store keeps to the protocol");
        if let Some(message) = message {
            assert!((1..=22).contains(&message.header.message_type));
        }
        bytes = &bytes[used..];
    }
}

/// Domain 0 does something, whole.
fn control(store: &mut Store, bytes: &mut impl Iterator<Item = u8>) {
    let mut next = || bytes.next().unwrap_or_default();
    let act = next();
    let node = WORDS
        .iter()
        .filter(|word| word.starts_with("/local/domain/"))
        .cycle();
    let node = path(node.clone().nth(next().into()).expect("some words are paths"));
    let tx = store.start();
    match act % 5 {
        0 => store.write(tx, &node, &[act; 9]).expect("domain 0 may"),
        1 => {
            // Its parent may be gone.
            let _ = store.rm(tx, &node);
        }
        2 => {
            let _ = store.directory(tx, &node);
        }
        3 => {
            let perms = Perms {
                owner: Perm::new(Access::Read, DomId::new(u16::from(next() % 4))),
                listed: vec![],
            };
            let _ = store.set_perms(tx, &Place::Node(node), perms);
        }
        _ => {
            let _ = store.watch(Place::Node(node), &[act]);
        }
    }
    assert_eq!(store.end(tx, End::Commit), Ok(()), "nobody came between");
    let mut events = 0;
    while act & 0x80 != 0 && store.next_event().is_some() {
        events += 1;
    }
    assert!(events < 5000);
    while let Some(guest) = store.next_ready() {
        assert!(store.is_introduced(guest));
    }
}
