//! Memory: every kind of mapping, and what can be done with it afterwards.

use std::arch::asm;
use std::ffi::{c_int, c_void};
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::FileExt as _;
use std::{fs, ptr};

use anyhow::{Result, bail, ensure};

use crate::Check;
use crate::sys::{Ended, PAGE, Pages, done, errno, in_child};

pub(crate) const CHECKS: &[Check] = &[
    ("memory-begins-as-zeroes", begins_as_zeroes),
    ("memory-shared-with-children", shared_with_children),
    ("memory-of-files-private", of_files_private),
    ("memory-of-files-shared", of_files_shared),
    ("memory-mapped-over", mapped_over),
    ("memory-with-holes", with_holes),
    ("memory-advised-to-be-huge", advised_to_be_huge),
    ("memory-protected", protected),
    ("memory-made-code", made_code),
    ("memory-moved", moved),
    ("memory-moved-under-pressure", moved_while_forked),
    ("memory-of-stacks-grows", of_stacks_grows),
    ("memory-of-heap-grows-and-shrinks", of_heap),
    ("memory-in-a-thousand-pieces", in_a_thousand_pieces),
    ("memory-locked-and-populated", locked_and_populated),
    ("memory-of-another-process", of_another_process),
    ("memory-given-back", given_back),
    ("memory-exhausted", exhausted),
];

const READ: c_int = libc::PROT_READ;
const WRITE: c_int = libc::PROT_READ | libc::PROT_WRITE;
const EXECUTE: c_int = libc::PROT_READ | libc::PROT_EXEC;
const ANONYMOUS: c_int = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;

/// Whether a program that touches memory so is ended by a signal.
fn faults<T>(work: impl FnOnce() -> T) -> Result<bool> {
    let ended = in_child(|| {
        work();
        0
    })?;
    Ok(match ended {
        Ended::Exited(0) => false,
        Ended::Killed(libc::SIGSEGV) => true,
        Ended::Exited(_) | Ended::Killed(_) | Ended::Stopped(_) => bail!("{ended:?}"),
    })
}

/// Whether the kernel reads a byte for this program.
fn kernel_reads(address: *const u8) -> Result<bool> {
    let (_reader, writer) = std::io::pipe()?;
    // SAFETY: the kernel looks whether the byte is there.
    let written = unsafe { libc::write(writer.as_raw_fd(), address.cast(), 1) };
    ensure!(written == 1 || errno() == libc::EFAULT, "errno {}", errno());
    Ok(written == 1)
}

/// Whether the kernel writes a byte for this program.
fn kernel_writes(address: *mut u8) -> Result<bool> {
    let zero = fs::File::open("/dev/zero")?;
    // SAFETY: as above; what is tried here has nothing of importance.
    let read = unsafe { libc::read(zero.as_raw_fd(), address.cast(), 1) };
    ensure!(read == 1 || errno() == libc::EFAULT, "errno {}", errno());
    Ok(read == 1)
}

fn begins_as_zeroes() -> Result<()> {
    for round in 0..4_u8 {
        let pages = Pages::new(256)?;
        ensure!(
            (0..256).all(|page| pages.get(page * PAGE + 5 * page) == 0),
            "round {round}"
        );
        pages.mark(round);
        ensure!(pages.is_marked(round));
        pages.advise(libc::MADV_DONTNEED)?;
        ensure!(
            (0..256).all(|page| pages.get(page * PAGE + page) == 0),
            "again, round {round}"
        );
        pages.unmap(0, 256)?;
    }
    Ok(())
}

fn shared_with_children() -> Result<()> {
    let (shared, own) = (Pages::shared(64)?, Pages::new(64)?);
    shared.mark(1);
    own.mark(1);
    let ended = in_child(|| {
        let was_there = shared.is_marked(1) && own.is_marked(1);
        shared.mark(2);
        own.mark(2);
        i32::from(!was_there)
    })?;
    ensure!(ended == Ended::Exited(0));
    ensure!(shared.is_marked(2) && own.is_marked(1));
    Ok(())
}

/// A file with so many pages, each of which begins with its number.
fn file(name: &str, pages: u8) -> Result<fs::File> {
    let path = format!("/tmp/{name}.{}", std::process::id());
    let file = fs::File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(true)
        .open(&path)?;
    for page in 0..pages {
        file.write_all_at(&[page; PAGE], u64::from(page) * PAGE as u64)?;
    }
    fs::remove_file(path)?;
    Ok(file)
}

fn of_files_private() -> Result<()> {
    let file = file("private", 16)?;
    let pages = Pages::map(16, WRITE, libc::MAP_PRIVATE, file.as_raw_fd())?;
    ensure!((0..16).all(|page| usize::from(pages.get(page * PAGE + 9)) == page));
    pages.set(3 * PAGE + 9, 77);
    ensure!(pages.get(3 * PAGE + 9) == 77 && pages.get(3 * PAGE + 10) == 3);
    let mut byte = [0];
    file.read_exact_at(&mut byte, 3 * PAGE as u64 + 9)?;
    ensure!(byte == [3], "the file has changed");
    Ok(())
}

fn of_files_shared() -> Result<()> {
    let file = file("shared", 16)?;
    let pages = Pages::map(16, WRITE, libc::MAP_SHARED, file.as_raw_fd())?;
    let again = Pages::map(16, READ, libc::MAP_SHARED, file.as_raw_fd())?;
    pages.set(5 * PAGE + 1, 99);
    ensure!(again.get(5 * PAGE + 1) == 99);
    let mut byte = [0];
    file.read_exact_at(&mut byte, 5 * PAGE as u64 + 1)?;
    ensure!(byte == [99]);
    file.write_all_at(&[55], 6 * PAGE as u64)?;
    ensure!(pages.get(6 * PAGE) == 55);
    // What a file no longer has is nobody's.
    file.set_len(PAGE as u64)?;
    ensure!(!kernel_reads(pages.at(6 * PAGE))?);
    Ok(())
}

fn mapped_over() -> Result<()> {
    let file = file("over", 1)?;
    let pages = Pages::new(8)?;
    pages.mark(3);
    let (before, after) = (pages.get(PAGE + 1), pages.get(4 * PAGE + 4));
    let (second, third) = (pages.at(2 * PAGE).cast(), pages.at(3 * PAGE).cast());
    // SAFETY: the pages are this check's alone.
    unsafe {
        let found = libc::mmap(second, PAGE, WRITE, ANONYMOUS | libc::MAP_FIXED, -1, 0);
        ensure!(found == second, "{found:p}");
        let shared = libc::MAP_SHARED | libc::MAP_FIXED;
        ensure!(libc::mmap(third, PAGE, READ, shared, file.as_raw_fd(), 0) == third);
        let refused = libc::mmap(second, PAGE, WRITE, ANONYMOUS | libc::MAP_FIXED_NOREPLACE, -1, 0);
        ensure!(refused == libc::MAP_FAILED && errno() == libc::EEXIST);
    }
    ensure!(pages.get(2 * PAGE + 2) == 0 && pages.get(3 * PAGE + 3) == 0);
    ensure!(pages.get(PAGE + 1) == before && pages.get(4 * PAGE + 4) == after);
    ensure!(faults(|| pages.set(3 * PAGE, 1))?);
    Ok(())
}

fn with_holes() -> Result<()> {
    let pages = Pages::new(64)?;
    pages.mark(9);
    for hole in (1..64).step_by(2) {
        pages.unmap(hole, 1)?;
    }
    for page in 0..64 {
        ensure!(
            kernel_reads(pages.at(page * PAGE))? == (page % 2 == 0),
            "page {page}"
        );
    }
    ensure!(faults(|| pages.get(7 * PAGE))?);
    ensure!(!faults(|| pages.get(8 * PAGE))?);
    Ok(())
}

fn advised_to_be_huge() -> Result<()> {
    const COUNT: usize = 2048;
    let pages = Pages::new(COUNT)?;
    // A kernel that has none says so.
    if let Err(error) = pages.advise(libc::MADV_HUGEPAGE) {
        ensure!(errno() == libc::EINVAL, "{error:#}");
    }
    pages.mark(4);
    ensure!(pages.is_marked(4));
    pages.protect(700, 1, READ)?;
    pages.unmap(1000, 1)?;
    let is_marked = |page: usize| pages.get(page * PAGE + page % PAGE) != 0 || page % 256 == 4;
    ensure!(is_marked(699) && is_marked(700) && is_marked(999) && is_marked(1001));
    ensure!(faults(|| pages.set(700 * PAGE, 1))?);
    if let Ok(huge) = Pages::map(512, WRITE, ANONYMOUS | libc::MAP_HUGETLB, -1) {
        // Promised without being there: whoever touches it finds out.
        let _ = in_child(|| {
            huge.set(0, 1);
            0
        })?;
    }
    Ok(())
}

fn protected() -> Result<()> {
    let pages = Pages::new(32)?;
    pages.mark(5);
    for (page, access, reads, writes) in [
        (1, READ, true, false),
        (2, libc::PROT_NONE, false, false),
        (3, EXECUTE, true, false),
        (4, WRITE, true, true),
    ] {
        pages.protect(page, 1, access)?;
        let byte = pages.at(page * PAGE + 2000);
        ensure!(kernel_reads(byte)? == reads, "page {page}, by the kernel");
        ensure!(kernel_writes(byte)? == writes, "page {page}, by the kernel");
        ensure!(faults(|| pages.get(page * PAGE))? != reads, "page {page}");
        ensure!(faults(|| pages.set(page * PAGE, 1))? != writes, "page {page}");
    }
    pages.protect(0, 32, WRITE)?;
    ensure!(pages.is_marked(5));
    Ok(())
}

fn made_code() -> Result<()> {
    let pages = Pages::new(1)?;
    for number in 1..=20_u8 {
        pages.protect(0, 1, WRITE)?;
        // mov eax, NUMBER; ret
        for (offset, byte) in [0xb8, number, 0, 0, 0, 0xc3].into_iter().enumerate() {
            pages.set(offset, byte);
        }
        pages.protect(0, 1, EXECUTE)?;
        let found: u32;
        // SAFETY: that is what stands there.
        unsafe { asm!("call {}", in(reg) pages.start(), out("eax") found) };
        ensure!(found == u32::from(number), "{found} for {number}");
    }
    Ok(())
}

/// Moves pages; where they are then.
fn remap(pages: &Pages, count: usize, to: usize, flags: c_int, place: *mut c_void) -> Result<*mut u8> {
    // SAFETY: the pages are the check's alone, and are not used where they were.
    let start = unsafe { libc::mremap(pages.start().cast(), count * PAGE, to * PAGE, flags, place) };
    ensure!(start != libc::MAP_FAILED, "mremap: errno {}", errno());
    Ok(start.cast())
}

fn moved() -> Result<()> {
    let (pages, other) = (Pages::new(16)?, Pages::new(600)?);
    pages.mark(6);
    let marks: Vec<u8> = (0..16).map(|page| pages.get(page * PAGE + page)).collect();
    let target = other.at(20 * PAGE);
    let start = remap(
        &pages,
        16,
        520,
        libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED,
        target.cast(),
    )?;
    ensure!(start == target && !kernel_reads(pages.start())?);
    // SAFETY: that is where they are.
    let at = |page: usize| unsafe { start.add(page * PAGE + page).read_volatile() };
    ensure!((0..16).all(|page| at(page) == marks[page]));
    ensure!((16..500).all(|page| at(page) == 0));
    // In place, to less.
    // SAFETY: as above.
    let shrunk = unsafe { libc::mremap(start.cast(), 520 * PAGE, PAGE, 0) };
    ensure!(shrunk == start.cast() && at(0) == marks[0] && !kernel_reads(start.wrapping_add(PAGE))?);
    Ok(())
}

/// The kernel moves a whole page table's worth, while a child still has the same pages.
fn moved_while_forked() -> Result<()> {
    const COUNT: usize = 1536;
    let (pages, other) = (Pages::new(COUNT)?, Pages::new(COUNT)?);
    pages.mark(8);
    let ended = in_child(|| {
        let place = other.start().cast();
        let start = remap(
            &pages,
            COUNT,
            COUNT,
            libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED,
            place,
        );
        i32::from(!(start.is_ok_and(|start| start == other.start()) && other.is_marked(8)))
    })?;
    ensure!(ended == Ended::Exited(0) && pages.is_marked(8), "{ended:?}");
    Ok(())
}

/// Uses so many pages of the stack, and what they had to say.
fn deep(pages: u64) -> u64 {
    let block = std::hint::black_box([pages; 512]);
    if pages == 0 {
        0
    } else {
        deep(pages - 1) + block[511]
    }
}

fn of_stacks_grows() -> Result<()> {
    ensure!(deep(1000) == 500_500);
    let thread = std::thread::Builder::new()
        .stack_size(8 << 20)
        .spawn(|| deep(1000))?;
    ensure!(thread.join().ok() == Some(500_500));
    Ok(())
}

fn of_heap() -> Result<()> {
    // SAFETY: in a process that does nothing else with its break between these.
    let ended = in_child(|| unsafe {
        const BYTES: isize = 4 << 20;
        let before = libc::sbrk(BYTES).cast::<u8>();
        before.add(12345).write_volatile(5);
        let is_there = before.add(12345).read_volatile() == 5
            && before.add(BYTES.unsigned_abs() - 1).read_volatile() == 0;
        libc::sbrk(-BYTES);
        let gone = kernel_reads(before.add(BYTES.unsigned_abs() - PAGE)).is_ok_and(|reads| !reads);
        i32::from(!(is_there && gone))
    })?;
    ensure!(ended == Ended::Exited(0), "{ended:?}");
    Ok(())
}

fn in_a_thousand_pieces() -> Result<()> {
    let pages = Pages::new(2000)?;
    pages.mark(2);
    for page in (0..2000).step_by(2) {
        pages.protect(page, 1, READ)?;
    }
    ensure!(pages.is_marked(2));
    let ended = in_child(|| i32::from(!pages.is_marked(2)))?;
    ensure!(ended == Ended::Exited(0));
    pages.protect(0, 2000, WRITE)?;
    pages.mark(3);
    ensure!(pages.is_marked(3));
    pages.unmap(0, 2000)
}

fn locked_and_populated() -> Result<()> {
    let pages = Pages::map(256, WRITE, ANONYMOUS | libc::MAP_POPULATE, -1)?;
    // SAFETY: the pages are there.
    done(unsafe { libc::mlock(pages.start().cast(), 256 * PAGE) }, "mlock")?;
    let mut there = [0_u8; 256];
    // SAFETY: writes a byte for each page.
    let answer = unsafe { libc::mincore(pages.start().cast(), 256 * PAGE, there.as_mut_ptr()) };
    done(answer, "mincore")?;
    ensure!(there.iter().all(|page| page & 1 == 1));
    pages.mark(1);
    ensure!(pages.is_marked(1));
    Ok(())
}

fn of_another_process() -> Result<()> {
    let pages = Pages::new(8)?;
    pages.mark(1);
    let mut copy = vec![0_u8; 8 * PAGE];
    let parent = std::process::id();
    let ended = in_child(|| {
        pages.mark(2);
        let local = libc::iovec {
            iov_base: copy.as_mut_ptr().cast(),
            iov_len: 8 * PAGE,
        };
        let remote = libc::iovec {
            iov_base: pages.start().cast(),
            iov_len: 8 * PAGE,
        };
        // SAFETY: the copy has room.
        let read = unsafe {
            libc::process_vm_readv(parent.cast_signed(), &raw const local, 1, &raw const remote, 1, 0)
        };
        pages.mark(1);
        // SAFETY: the pages are there.
        let own = unsafe { std::slice::from_raw_parts(pages.start(), 8 * PAGE) };
        i32::from(!(usize::try_from(read) == Ok(8 * PAGE) && copy == own))
    })?;
    ensure!(ended == Ended::Exited(0));
    Ok(())
}

/// Many times more than there is, one after the other.
fn given_back() -> Result<()> {
    for round in 0..6 {
        let pages = Pages::new(4096)?;
        pages.mark(round);
        ensure!(pages.is_marked(round));
        pages.unmap(0, 4096)?;
    }
    Ok(())
}

/// More than an address space may have is refused, and nothing else happens.
fn exhausted() -> Result<()> {
    let limit = libc::rlimit {
        rlim_cur: 256 << 20,
        rlim_max: 256 << 20,
    };
    // SAFETY: reads the limit; the mapping, if any, is anywhere.
    unsafe {
        done(libc::setrlimit(libc::RLIMIT_AS, &raw const limit), "setrlimit")?;
        let refused = libc::mmap(ptr::null_mut(), 1 << 30, WRITE, ANONYMOUS, -1, 0);
        ensure!(refused == libc::MAP_FAILED && errno() == libc::ENOMEM);
    }
    Pages::new(16)?.mark(1);
    Ok(())
}
