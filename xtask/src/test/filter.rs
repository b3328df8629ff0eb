//! Which tests are wanted: by group and by part of the name.

/// A group of tests; its name is the first part of the names of its tests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Group {
    Check,
    Host,
    Loom,
    Machine,
}

impl Group {
    const ALL: [Self; 4] = [Self::Check, Self::Host, Self::Loom, Self::Machine];

    /// The group's name.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Check => "check",
            Self::Host => "host",
            Self::Loom => "loom",
            Self::Machine => "machine",
        }
    }
}

/// A selection of tests; the default selects all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Filter {
    group: Option<Group>,
    text: String,
}

impl Filter {
    /// Understands `TEXT` or `GROUP/TEXT`. A slash after anything but a group's name is part of the text.
    pub(super) fn new(filter: &str) -> Self {
        let parts = filter.split_once('/');
        let group = parts.and_then(|(name, _)| Group::ALL.into_iter().find(|group| group.name() == name));
        match (group, parts) {
            (Some(group), Some((_, text))) => Self {
                group: Some(group),
                text: text.to_owned(),
            },
            _ => Self {
                group: None,
                text: filter.to_owned(),
            },
        }
    }

    /// Whether tests of this group may be selected.
    pub(super) fn allows(&self, group: Group) -> bool {
        self.group.is_none_or(|only| only == group)
    }

    /// Whether the test called `name`, without its group, is selected.
    pub(super) fn selects(&self, group: Group, name: &str) -> bool {
        self.allows(group) && name.contains(&self.text)
    }

    /// What names must have in them; empty if any will do.
    pub(super) fn text(&self) -> &str {
        &self.text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_a_filter_everything_is_selected() {
        for group in Group::ALL {
            assert!(Filter::default().selects(group, "anything"));
        }
    }

    #[test]
    fn text_selects_in_every_group() {
        let filter = Filter::new("event");
        assert!(
            filter.selects(Group::Host, "bulkhead-core events") && filter.selects(Group::Machine, "events")
        );
        assert!(!filter.selects(Group::Machine, "hello"));
    }

    #[test]
    fn a_group_before_a_slash_selects_in_that_group_only() {
        let filter = Filter::new("machine/crash");
        assert!(filter.selects(Group::Machine, "crash-null"));
        assert!(!filter.selects(Group::Host, "crash") && !filter.selects(Group::Machine, "hello"));
        assert!(Filter::new("check/").selects(Group::Check, "format"));
    }

    #[test]
    fn another_slash_is_part_of_the_text() {
        assert!(
            Filter::new("a/b").selects(Group::Host, "suite a/b")
                && !Filter::new("a/b").selects(Group::Host, "b")
        );
    }
}
