//! Random histories against a model that a reader can check: a map of paths, and clones of it for transactions.
//!
//! A transaction that is committed must be as if all of it happened at its end; one that is refused must have looked at
//! something that others changed meanwhile.

use std::collections::BTreeMap;

use bulkhead_abi::DomId;
use bulkhead_abi::xenstore::StoreError;
use proptest::prelude::*;

use super::path;
use crate::{Access, End, Path, Perm, Perms, Place, Store, Tx};
use bulkhead_bus::wire::Request;

#[derive(Clone, Debug)]
enum Op {
    Read(Path),
    List(Path),
    Perms(Path),
    Write(Path, u8),
    Mkdir(Path),
    Rm(Path),
    SetPerms(Path, Perms),
}

type Answer = Result<Vec<u8>, StoreError>;

#[derive(Clone, Debug, PartialEq)]
struct Model(BTreeMap<String, (Vec<u8>, Perms)>);

impl Model {
    fn new() -> Self {
        Self(BTreeMap::from([(
            "/".into(),
            (vec![], Perms::private(DomId::new(0))),
        )]))
    }

    /// What is not the same in both.
    fn differs(&self, other: &Self) -> Vec<Path> {
        let keys = self.0.keys().chain(other.0.keys());
        keys.filter(|key| self.0.get(*key) != other.0.get(*key))
            .map(|key| path(key))
            .collect()
    }

    /// The nearest ancestor that is there, or the node.
    fn nearest<'a>(&self, path: &'a Path) -> &'a str {
        path.lineage()
            .filter(|prefix| self.0.contains_key(*prefix))
            .last()
            .unwrap()
    }

    fn check(&self, who: u16, path: &Path, wanted: Access) -> Result<(), StoreError> {
        let nearest = self.nearest(path);
        let perms = &self.0[nearest].1;
        let entry = perms
            .listed
            .iter()
            .find(|perm| perm.domain.raw() == who)
            .unwrap_or(&perms.owner);
        let is_allowed = who == 0
            || perms.owner.domain.raw() == who
            || entry.access == wanted
            || entry.access == Access::Both;
        match (is_allowed, nearest == path.as_str()) {
            (false, _) => Err(StoreError::Acces),
            (true, false) => Err(StoreError::NoEnt),
            (true, true) => Ok(()),
        }
    }

    fn make(&mut self, who: u16, path: &Path, value: Vec<u8>) {
        let mut perms = self.0[self.nearest(path)].1.clone();
        if who != 0 {
            perms.owner.domain = DomId::new(who);
        }
        for prefix in path.lineage() {
            self.0
                .entry(prefix.into())
                .or_insert_with(|| (vec![], perms.clone()));
        }
        self.0.get_mut(path.as_str()).unwrap().0 = value;
    }

    fn apply(&mut self, who: u16, op: &Op) -> Answer {
        let ok = Ok(b"OK\0".to_vec());
        match op {
            Op::Read(path) => self
                .check(who, path, Access::Read)
                .map(|()| self.0[path.as_str()].0.clone()),
            Op::Perms(path) => self
                .check(who, path, Access::Read)
                .map(|()| self.0[path.as_str()].1.to_text().into_bytes()),
            Op::List(path) => self.check(who, path, Access::Read).map(|()| {
                let children = self.0.keys().filter_map(|key| {
                    key.parse::<Path>()
                        .unwrap()
                        .split()
                        .map(|(parent, name)| (parent, name.to_string()))
                });
                children
                    .filter(|(parent, _)| parent == path)
                    .flat_map(|(_, name)| name.into_bytes().into_iter().chain([0]))
                    .collect()
            }),
            Op::Write(path, value) => match self.check(who, path, Access::Write) {
                Err(StoreError::NoEnt) | Ok(()) => {
                    self.make(who, path, vec![*value]);
                    ok
                }
                Err(error) => Err(error),
            },
            Op::Mkdir(path) => match self.check(who, path, Access::Write) {
                Ok(()) => ok,
                Err(StoreError::NoEnt) => {
                    self.make(who, path, vec![]);
                    ok
                }
                Err(error) => Err(error),
            },
            Op::Rm(path) => {
                let (parent, _) = path.split().ok_or(StoreError::Inval)?;
                match self.check(who, path, Access::Write) {
                    Ok(()) => {
                        self.0
                            .retain(|key, _| key != path.as_str() && !key.starts_with(&format!("{path}/")));
                        ok
                    }
                    Err(StoreError::NoEnt) if self.0.contains_key(parent.as_str()) => ok,
                    Err(error) => Err(error),
                }
            }
            Op::SetPerms(path, perms) => {
                self.check(who, path, Access::Write)?;
                let (_, before) = self.0.get_mut(path.as_str()).unwrap();
                if who != 0 && before.owner.domain.raw() != who {
                    return Err(StoreError::Acces);
                }
                if who != 0 && perms.owner.domain != before.owner.domain {
                    return Err(StoreError::Perm);
                }
                *before = perms.clone();
                ok
            }
        }
    }
}

impl Op {
    fn path(&self) -> &Path {
        match self {
            Self::Read(path)
            | Self::List(path)
            | Self::Perms(path)
            | Self::Write(path, _)
            | Self::Mkdir(path)
            | Self::Rm(path)
            | Self::SetPerms(path, _) => path,
        }
    }

    fn ask(&self, store: &mut Store, who: u16, tx: u32) -> Answer {
        let value;
        let request = match self.clone() {
            Self::Read(path) => Request::Read(path),
            Self::List(path) => Request::Directory(path),
            Self::Perms(path) => Request::GetPerms(Place::Node(path)),
            Self::Write(path, byte) => {
                value = [byte];
                Request::Write(path, &value)
            }
            Self::Mkdir(path) => Request::Mkdir(path),
            Self::Rm(path) => Request::Rm(path),
            Self::SetPerms(path, perms) => Request::SetPerms(Place::Node(path), perms),
        };
        store.request(DomId::new(who), tx, request)
    }
}

/// All nodes of a store, as domain 0 sees them.
fn dump(store: &mut Store) -> Model {
    let mut found = BTreeMap::new();
    let mut pile = vec![Path::root()];
    while let Some(node) = pile.pop() {
        let value = store.read(Tx::NONE, &node).unwrap().to_vec();
        let perms = store.perms(Tx::NONE, &Place::Node(node.clone())).unwrap();
        for name in store.directory(Tx::NONE, &node).unwrap() {
            pile.push(node.join(&name).unwrap());
        }
        found.insert(node.to_string(), (value, perms));
    }
    Model(found)
}

#[derive(Clone, Debug)]
enum Act {
    /// Who, in which of its transactions if it has as many, what.
    Do(u16, usize, Op),
    Start(u16),
    End(u16, End),
}

fn any_path() -> impl Strategy<Value = Path> {
    prop::collection::vec(prop::sample::select(vec!["a", "a-", "b"]), 0..4).prop_map(|parts| {
        match &*parts.concat() {
            "" => Path::root(),
            _ => path(&format!("/{}", parts.join("/"))),
        }
    })
}

fn any_perms() -> impl Strategy<Value = Perms> {
    let access = || prop::sample::select(vec![Access::None, Access::Read, Access::Write, Access::Both]);
    let perm =
        move || (access(), 0..3_u16).prop_map(|(access, domain)| Perm::new(access, DomId::new(domain)));
    (perm(), prop::collection::vec(perm(), 0..3)).prop_map(|(owner, listed)| Perms { owner, listed })
}

fn any_op() -> impl Strategy<Value = Op> {
    prop_oneof![
        2 => any_path().prop_map(Op::Read),
        1 => any_path().prop_map(Op::List),
        1 => any_path().prop_map(Op::Perms),
        4 => (any_path(), any::<u8>()).prop_map(|(path, value)| Op::Write(path, value)),
        1 => any_path().prop_map(Op::Mkdir),
        1 => any_path().prop_map(Op::Rm),
        1 => (any_path(), any_perms()).prop_map(|(path, perms)| Op::SetPerms(path, perms)),
    ]
}

fn any_act() -> impl Strategy<Value = Act> {
    prop_oneof![
        12 => (0..3_u16, 0..3_usize, any_op()).prop_map(|(who, tx, op)| Act::Do(who, tx, op)),
        2 => (0..3_u16).prop_map(Act::Start),
        2 => (0..3_u16, prop::sample::select(vec![End::Commit, End::Commit, End::Abandon])).prop_map(|(who, end)| Act::End(who, end)),
    ]
}

struct Open {
    id: u32,
    now: Model,
    done: Vec<(Op, Answer)>,
    /// What others did to which paths since the start.
    meanwhile: Vec<Path>,
}

fn meet(one: &Path, other: &Path) -> bool {
    one == other || one.is_below(other) || other.is_below(one)
}

fn play(acts: Vec<Act>) -> Result<(usize, usize), TestCaseError> {
    let mut store = Store::new();
    for guest in 1..3 {
        store.introduce(DomId::new(guest)).unwrap();
    }
    let mut model = Model::new();
    let open_to_all = Op::SetPerms(
        Path::root(),
        Perms {
            owner: Perm::new(Access::Both, DomId::new(0)),
            listed: vec![],
        },
    );
    prop_assert_eq!(open_to_all.ask(&mut store, 0, 0), model.apply(0, &open_to_all));
    let mut open: BTreeMap<u16, Vec<Open>> = BTreeMap::new();
    let (mut commits, mut conflicts) = (0, 0);
    for act in acts {
        let mut changed = Vec::new();
        let before = model.clone();
        match act {
            Act::Do(who, 0, op) => {
                prop_assert_eq!(
                    op.ask(&mut store, who, 0),
                    model.apply(who, &op),
                    "{} {:?}",
                    who,
                    op
                );
                changed.push(op.path().clone());
            }
            Act::Do(who, which, op) => {
                if let Some(open) = open.get_mut(&who).and_then(|open| open.get_mut(which - 1)) {
                    let answer = open.now.apply(who, &op);
                    prop_assert_eq!(
                        op.ask(&mut store, who, open.id),
                        answer.clone(),
                        "{} {:?}",
                        who,
                        op
                    );
                    open.done.push((op, answer));
                }
            }
            Act::Start(who) => {
                let open = open.entry(who).or_default();
                if open.len() < 2 {
                    let id = store.do_start(DomId::new(who), 0).unwrap();
                    open.push(Open {
                        id,
                        now: model.clone(),
                        done: vec![],
                        meanwhile: vec![],
                    });
                }
            }
            Act::End(who, end) => {
                let Some(open) = open.get_mut(&who).and_then(Vec::pop) else {
                    continue;
                };
                let ended = store.do_end(DomId::new(who), open.id, end);
                if end == End::Abandon {
                    prop_assert_eq!(ended, Ok(()));
                } else if ended == Ok(()) {
                    for (op, answer) in &open.done {
                        prop_assert_eq!(&model.apply(who, op), answer, "as if it happened now: {:?}", op);
                        changed.push(op.path().clone());
                    }
                    commits += 1;
                } else {
                    prop_assert_eq!(ended, Err(StoreError::Again));
                    let is_disturbed = open
                        .done
                        .iter()
                        .any(|(op, _)| open.meanwhile.iter().any(|path| meet(path, op.path())));
                    prop_assert!(is_disturbed, "nobody touched what it looked at");
                    conflicts += 1;
                }
            }
        }
        changed.extend(before.differs(&model));
        for open in open.values_mut().flatten() {
            open.meanwhile.extend(changed.iter().cloned());
        }
        store.invariants();
        prop_assert_eq!(&dump(&mut store), &model);
    }
    Ok((commits, conflicts))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn the_store_does_what_a_map_of_paths_does(acts in prop::collection::vec(any_act(), 1..80)) {
        play(acts)?;
    }
}

#[test]
fn the_histories_of_the_model_have_commits_and_conflicts() {
    use proptest::strategy::ValueTree;
    use proptest::test_runner::TestRunner;
    let mut runner = TestRunner::deterministic();
    let (mut commits, mut conflicts) = (0, 0);
    for _ in 0..50 {
        let acts = prop::collection::vec(any_act(), 80)
            .new_tree(&mut runner)
            .unwrap()
            .current();
        let counted = play(acts).unwrap();
        commits += counted.0;
        conflicts += counted.1;
    }
    assert!(
        commits > 50 && conflicts > 20,
        "{commits} commits, {conflicts} conflicts"
    );
}
