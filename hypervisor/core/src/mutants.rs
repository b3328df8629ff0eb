//! Seeded bugs: does the simulation find what it is there to find?
//!
//! Each `Mutant` is a mistake that somebody could make, at the place where it would be made: a switch there, `mutant!`, asks
//! whether it is made now. In a hypervisor that is built to run, every switch is the constant `false`, and nothing of it is
//! left. In tests, a mutant is planted for one thread at a time: a simulation does not leave its thread.
//!
//! A law that no mutant breaks is one that nobody has seen to be checked. So whoever adds a law adds a mutant.

/// Whether the named mutant is planted.
#[cfg(any(test, feature = "testing"))]
macro_rules! mutant {
    ($name:ident) => {
        $crate::mutants::Mutant::$name.is_planted()
    };
}

/// Never: this is no test.
#[cfg(not(any(test, feature = "testing")))]
macro_rules! mutant {
    ($name:ident) => {
        false
    };
}

#[cfg(any(test, feature = "testing"))]
pub use planting::{Mutant, Planted};

#[cfg(any(test, feature = "testing"))]
mod planting {
    use core::cell::Cell;
    use core::fmt;

    macro_rules! mutants {
        ( $( $(#[$doc:meta])* $name:ident, )* ) => {
            /// A mistake that can be made on purpose.
            #[derive(Clone, Copy, Debug, PartialEq, Eq)]
            pub enum Mutant {
                $( $(#[$doc])* $name, )*
            }

            impl Mutant {
                /// All that there are.
                pub const ALL: &[Self] = &[$( Self::$name, )*];
            }
        };
    }

    mutants! {
        /// Frames: a reference is given to whoever asks, not only to the owner.
        AnyoneMayRefer,
        /// Frames: a use is given though the frame is in use as something else.
        TwoTypesAtOnce,
        /// Frames: the last use of a table goes, and what its entries refer to is not let go.
        LostUnpick,
        /// Frames: a frame that is referred to can be taken from its domain.
        TakenWhileReferred,
        /// Frames: a table can be pinned again, and only one pin is ever taken off.
        PinnedTwice,
        /// Paging: no TLB forgets a frame that becomes something else (XSA-401).
        SkippedRetypeFlush,
        /// Paging: a frame that could not be had as what was wanted keeps the reference taken for that.
        LostPutOnRefusal,
        /// Paging: a table with a bad entry keeps what the good ones before it refer to.
        LostUnpickOnRefusal,
        /// Paging: validation that was left half done begins again at the first entry, which refers to its frame already.
        ResumedFromStart,
        /// Paging: a table that was left half done keeps its reference to itself when it is gone on with.
        LostPutOnResume,
        /// Paging: unpicking that was left half done believes that one entry less is to be let go.
        UnpickedOneTooFew,
        /// Paging: a level 4 table keeps what the guest wrote where the hypervisor's slots are.
        GuestsOwnSlots,
        /// Paging: entries of the hypervisor's slots can be written one by one.
        WritableSlots,
        /// Paging: what an entry referred to is kept when another takes its place.
        LostPutOnUpdate,
        /// Paging: what an entry referred to is looked up again after another took its place.
        OldReadAgain,
        /// Paging: an entry that leads to other tables changes, and no CPU is told.
        SkippedUpperFlush,
        /// Paging: an entry that allows writes now, and did not before, is taken for the same as before.
        FastPathMayWrite,
        /// Paging: an entry that leads to another frame than before is taken for the same.
        FastPathMayMove,
        /// Paging: an upper-level entry of the control domain's leads to another domain's table.
        ForeignTables,
        /// Devices: any domain maps a frame that was assigned to one.
        DevicesAreEverybodys,
        /// Devices: what is one domain's is assigned to another.
        AssignedTwice,
        /// Devices: the control domain maps what it has assigned to another.
        DevicesLent,
        /// Devices: a domain that is no more still owns them, and so does its successor.
        DevicesKept,
        /// Devices: an entry that leads to one gives back what it never took.
        DevicesCounted,
        /// Lines: any domain makes a pirq of a line that was assigned to one, or to none.
        LinesAreEverybodys,
        /// Lines: one is bound to a second port.
        LineBoundTwice,
        /// Lines: one raises a port that has been closed.
        LineOfClosedPort,
        /// Lines: one that is triggered by level is not masked when it is delivered.
        LevelLeftOpen,
        /// Lines: those of a domain that is taken down stay as they are.
        LinesKept,
        /// Lines: one that raises a port is wired in another way.
        BoundLineRewired,
        /// Functions: any domain changes the command register of another's, or of nobody's.
        FunctionsAreEverybodys,
        /// Functions: any domain has the messages of another's, or of nobody's.
        MessagesAreEverybodys,
        /// Functions: an owner changes any bit of the command register.
        CommandUnfiltered,
        /// Functions: an owner moves base addresses.
        BarsMoved,
        /// Functions: a reset takes base addresses away for good.
        BarsLost,
        /// Functions: one that is somebody's is assigned to another.
        FunctionAssignedTwice,
        /// Functions: one has an owner before it is let reach that domain's space.
        AttachedLate,
        /// Functions: one that could not be assigned reaches the domain's space still.
        AttachedOnRefusal,
        /// Functions: an owner has the frames with the table of messages.
        TableMapped,
        /// Functions: those of a domain that is taken down still get at memory.
        MasterLeftOn,
        /// Functions: those of a domain that is taken down still send messages.
        MessagesKept,
        /// Functions: one is spoken to while it is being reset.
        ResetNotAwaited,
        /// Functions: the message of a closed port is not masked.
        MessageLeftOn,
        /// Devices: the frames of RAM, too, may be cached in any way.
        RamCachedAtWill,
        /// Extents: a frame that a domain has from one can be had again.
        KeptFrameTwice,
        /// Extents: a frame that is let go becomes the machine's.
        KeptFrameFreed,
        /// Extents: one is given up while a domain has frames of it.
        GivenUpInUse,
        /// Memory: what the hypervisor shared with a domain that is no more still counts as that domain's, if another has it mapped.
        SharedStaysOwned,
        /// Paging: a page is copied to a frame that need not be one that its owner can write.
        CopyToAnything,
        /// Paging: a copy keeps its source.
        LostPutOnCopy,
        /// Paging: a new root is not counted.
        UncountedRoot,
        /// Paging: the old root of programs is kept when a new one takes its place.
        LostPutOnUserRoot,
        /// Emulation: whatever the instruction writes stands in the table unchecked.
        UncheckedEmulation,
        /// Memory: a frame stays on the list of the domain that gave it back.
        StillListed,
        /// Memory: a domain gets more than it may have.
        NoLimit,
        /// Memory: what one domain has claimed, another gets.
        ClaimIgnored,
        /// Memory: a domain that is no more has its claim still.
        ClaimKept,
        /// Memory: a map has as many entries as somebody says.
        MapUnbounded,
        /// Memory: frames that were to be exchanged are lost when one of them cannot be.
        LostOnFailedExchange,
        /// Grants: whoever knows a grant can use it.
        GrantedToAnyone,
        /// Grants: a grant for reading can be used for writing.
        WrittenThroughReadOnlyGrant,
        /// Grants: the grantor is not told that a grant is in use.
        UnmarkedGrant,
        /// Grants: a grant is mapped, though the frame is not the grantor's.
        MappedWhoeverOwnsIt,
        /// Grants: a map that is refused at its page-table entry leaves the grant in use.
        LostUseOnRefusedMap,
        /// Grants: a grant that is unmapped ends before TLBs have forgotten it.
        UnmappedWithoutFlush,
        /// Grants: a mapping ends, and the entry that it names leads elsewhere.
        UnmappedUnseen,
        /// Grants: a mapping for reading ends by an entry that allows writes.
        UnmappedByOtherRights,
        /// Grants: a device's use holds no frame.
        DeviceHoldsNothing,
        /// Grants: a device's use ends, and its frame is still held.
        LostPutOnDeviceUnmap,
        /// Grants: a device's use is refused for want of room, and its frame is still held.
        HeldOutOfReach,
        /// DMA: a frame that devices may reach no more stands in the tree still.
        ReachKept,
        /// DMA: a frame that devices may only read from now on can still be written.
        ReachNotLowered,
        /// DMA: a frame that is mapped for reading, or writing, again counts once.
        ReachCountedOnce,
        /// DMA: the hardware is not told that an entry allows more.
        MoreUntold,
        /// DMA: what is unmapped is let go before the hardware has forgotten it.
        UnmappedWithoutDmaFlush,
        /// DMA: what is unpinned is let go before the hardware has forgotten it.
        UnpinnedWithoutDmaFlush,
        /// DMA: a frame that is pinned to be written can become a page table.
        DmaPinHoldsNoUse,
        /// DMA: any domain's frames can be pinned.
        DmaPinOfAnyones,
        /// DMA: a frame can be pinned again, and only one pin is ever taken off.
        DmaPinnedTwice,
        /// DMA: what a domain that is no more has pinned is held for ever.
        DmaPinsKept,
        /// DMA: the functions of a domain that is no more walk its tree.
        FunctionsKept,
        /// DMA: what the hardware remembers of a domain that is no more, its successor's functions reach.
        DetachedWithoutFlush,
        /// DMA: the leaves of the tree of a domain that is no more are lost.
        LeavesLeaked,
        /// Grants: a copy goes to a frame that need not be one that its owner can write.
        CopiedToAnything,
        /// Grants: a frame that changes hands keeps its room where it came from.
        FlippedWithoutRoom,
        /// Grants: a flip that is refused at its second frame loses the first.
        LostOnRefusedFlip,
        /// Grants: frames change hands before TLBs have forgotten them.
        GivenWithoutFlush,
        /// Grants: an entry is swapped while it is in use.
        SwappedInUse,
        /// Grants: a copy leaves its grants in use.
        LostUseOnCopy,
        /// Descriptors: what the guest asks for is checked, and what it asked for is written.
        UncheckedDescriptor,
        /// Descriptors: a page of descriptors is believed as it is.
        UncheckedDescriptorPage,
        /// Descriptors: a refused list of frames keeps those before the one that is wrong.
        LostPutOnRefusedList,
        /// Descriptors: the old table is kept when a new one takes its place.
        LostPutOnGdt,
        /// Descriptors: a table of local descriptors that goes keeps its pages.
        LostPutOnLdt,
        /// Descriptors: a vCPU's first state that is refused keeps what it names.
        LostPutOnFirstState,
        /// Descriptors: a vCPU's local descriptors stay behind in its CPU.
        LdtLeft,
        /// Debug registers: a breakpoint may be anywhere.
        BreakpointOnHypervisor,
        /// Debug registers: a vCPU's breakpoints stay behind in its CPU.
        BreakpointsLeft,
        /// Crossings: a kernel finds the base of GS of its program.
        BasesNotSwapped,
        /// Crossings: a kernel goes on with the tables of its program.
        ProgramsTables,
        /// Crossings: who returns from a handler gets the flags that it asks for.
        FlagsAsAsked,
        /// Crossings: a kernel is not told that segments of its could not be loaded.
        FailsafeNotCalled,
        /// Scheduling: a vCPU is told another's number by RDTSCP.
        TscAuxLeft,
        /// Crossings: SYSENTER leads to the hypervisor after a switch, or not, as it did before.
        SysenterLeft,
        /// Crossings: a kernel that handles a non-maskable interrupt gets the next one.
        NestedNmi,
        /// Scheduling: a vCPU that runs is not told to look for a non-maskable interrupt.
        NmiUntold,
        /// Scheduling: a periodic timer ticks once.
        TickedOnce,
        /// Events: whoever closes a port does not tell the other end.
        PeerNotTold,
        /// Events: the port that somebody connects to goes on waiting.
        HalfBound,
        /// Events: the virtual interrupt of a closed port still leads there.
        VirqOfClosedPort,
        /// Events: nobody is woken by an event.
        LostWake,
        /// Scheduling: a deadline is set, and the timer is not.
        TimerNotSet,
        /// Scheduling: a domain that has ended leaves its watchdogs.
        WatchdogLeft,
        /// Scheduling: a vCPU that asked to stay on a CPU goes elsewhere.
        PinIgnored,
        /// Scheduling: a poll that is over leaves its deadline.
        PollDeadlineLeft,
        /// Scheduling: a stopped vCPU leaves its deadlines.
        StoppedWithDeadlines,
        /// Scheduling: a CPU is not told that somebody waits for it.
        NobodyCalled,
        /// Scheduling: a vCPU comes to another CPU, and is still looked for where it was.
        HomeNotMoved,
        /// Scheduling: a vCPU's direct gates stay with the CPU that it leaves.
        GatesLeft,
        /// Scheduling: a vCPU's alarm stays with the CPU that it leaves.
        AlarmLeft,
    }

    // The first `std` of this crate, in tests alone: planted mutants are a thread's own.
    std::thread_local! {
        static PLANTED: Cell<Option<Mutant>> = const { Cell::new(None) };
    }

    impl Mutant {
        /// Makes the mistake on this thread until the answer is dropped, instead of any that was made before.
        #[must_use = "it is made no longer than this is kept"]
        pub fn plant(self) -> Planted {
            PLANTED.set(Some(self));
            Planted(())
        }

        /// Whether the mistake is made.
        pub(crate) fn is_planted(self) -> bool {
            PLANTED.get() == Some(self)
        }
    }

    impl fmt::Display for Mutant {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            fmt::Debug::fmt(self, f)
        }
    }

    /// A mutant that lives as long as this.
    #[derive(Debug)]
    pub struct Planted(());

    impl Drop for Planted {
        fn drop(&mut self) {
            PLANTED.set(None);
        }
    }
}
