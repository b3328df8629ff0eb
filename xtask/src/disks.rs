//! Disks of a machine: images with named partitions, made here, given to QEMU, and read from outside when the machine is off.
//!
//! A scenario says which [`Disk`]s its machine has; [`provide`] makes their images anew. The controllers stand at [fixed places](address) on
//! PCI, from 00:04.0 on, so that a configuration can name them.

use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use gpt::GptConfig;
use gpt::mbr::ProtectiveMBR;
use gpt::partition_types::LINUX_FS;

use crate::project::Project;

/// Bytes of a sector.
const SECTOR: u64 = 512;

const MIB: u64 = 1 << 20;

/// What a disk is reached by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Controller {
    /// A virtio block device, as of virtio 1.0.
    Virtio,
    /// An NVMe controller with one namespace.
    Nvme,
}

/// What stands between a machine's disk and its image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Through {
    /// Nothing.
    Image,
    /// A [log](WriteLog), in which everything that is written or flushed stands in the order in which it was.
    Log,
    /// A limit: so many bytes in a second.
    Rate(u64),
    /// Errors, each at any request of this kind that has this sector.
    Errors(&'static [(Fails, u64)]),
}

/// What fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fails {
    Read,
    Write,
}

/// A disk that a machine is to have.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Disk<'a> {
    /// What it is reached by.
    pub(crate) controller: Controller,
    /// What is on it: the names of its partitions and their sizes in MiB. None at all makes a disk of [`EMPTY_MIB`] without a partition table.
    pub(crate) partitions: &'a [(&'a str, u64)],
    /// Writes what it has at first, beside its partition table.
    pub(crate) fill: Option<fn(&mut DiskImage) -> Result<()>>,
    /// Gets the file that its first partition begins with.
    pub(crate) source: Option<fn(&Project) -> Result<PathBuf>>,
    /// How the machine gets to that.
    pub(crate) through: Through,
}

/// The size of a disk without a partition table, in MiB.
const EMPTY_MIB: u64 = 16;

impl<'a> Disk<'a> {
    /// A disk with these partitions, all zeros.
    pub(crate) const fn new(controller: Controller, partitions: &'a [(&'a str, u64)]) -> Self {
        Self {
            controller,
            partitions,
            fill: None,
            source: None,
            through: Through::Image,
        }
    }

    /// With this between it and its image.
    pub(crate) const fn through(mut self, what: Through) -> Self {
        self.through = what;
        self
    }

    /// With a copy of the file that this gets in its first partition.
    pub(crate) const fn copied(mut self, source: fn(&Project) -> Result<PathBuf>) -> Self {
        self.source = Some(source);
        self
    }

    /// With what this writes on it at first.
    pub(crate) const fn filled(mut self, fill: fn(&mut DiskImage) -> Result<()>) -> Self {
        self.fill = Some(fill);
        self
    }
}

/// What `cargo xtask run` has on its disk, if it is not told another image.
pub(crate) const DEFAULT_PARTITIONS: &[(&str, u64)] = &[("web-data", 64), ("scratch", 64)];

/// A disk that QEMU is to be given.
#[derive(Clone, Debug)]
pub(crate) struct Drive {
    /// What it is reached by.
    pub(crate) controller: Controller,
    /// What is on it.
    pub(crate) image: PathBuf,
    /// How the machine gets to that.
    pub(crate) through: Through,
}

/// The place on PCI of a machine's disk with this number, as QEMU writes it for bus 0.
pub(crate) fn address(disk: usize) -> String {
    format!("{:x}.0", disk.saturating_add(4))
}

impl Drive {
    /// QEMU's arguments for the machine's disk with this number, on a machine with an IOMMU or without.
    pub(crate) fn arguments(&self, number: usize, has_iommu: bool) -> [String; 4] {
        let file = in_list(&self.image);
        let image = match self.through {
            Through::Image => format!("format=raw,file={file}"),
            Through::Rate(rate) => format!("format=raw,throttling.bps-total={rate},file={file}"),
            Through::Log => format!(
                "driver=blklogwrites,file.driver=file,file.filename={file},log.driver=file,log.filename={}",
                in_list(&self.log())
            ),
            Through::Errors(errors) => {
                let mut image = format!(
                    "driver=raw,rerror=report,werror=report,file.driver=blkdebug,\
                     file.image.driver=file,file.image.filename={file}"
                );
                for (number, (what, sector)) in errors.iter().enumerate() {
                    let kind = match what {
                        Fails::Read => "read",
                        Fails::Write => "write",
                    };
                    let rule = format!("file.inject-error.{number}");
                    image += &format!(",{rule}.event=none,{rule}.iotype={kind},{rule}.sector={sector}");
                }
                image
            }
        };
        let place = format!("drive=disk{number},bus=pcie.0,addr={}", address(number));
        [
            "-drive".into(),
            format!("if=none,id=disk{number},discard=unmap,{image}"),
            "-device".into(),
            match self.controller {
                // Without the word for it, a virtio device goes around the IOMMU.
                Controller::Virtio if has_iommu => {
                    format!("virtio-blk-pci,{place},disable-legacy=on,iommu_platform=on")
                }
                Controller::Virtio => format!("virtio-blk-pci,{place},disable-legacy=on"),
                Controller::Nvme => format!("nvme,{place},serial=disk{number}"),
            },
        ]
    }

    /// Where the log is, if it has one.
    pub(crate) fn log(&self) -> PathBuf {
        self.image.with_extension("writes")
    }

    /// Removes its files.
    ///
    /// # Errors
    ///
    /// If one cannot be removed.
    pub(crate) fn remove(&self) -> Result<()> {
        std::fs::remove_file(&self.image)?;
        if self.through == Through::Log {
            std::fs::remove_file(self.log())?;
        }
        Ok(())
    }
}

/// A path as an element of one of QEMU's lists, where a comma is written twice.
fn in_list(path: &Path) -> String {
    path.to_string_lossy().replace(',', ",,")
}

/// Makes the images of `disks` in `directory`, for the machine called `name`. What was there of an earlier machine goes.
///
/// # Errors
///
/// If one cannot be made.
pub(crate) fn provide(directory: &Path, name: &str, disks: &[Disk<'_>]) -> Result<Vec<Drive>> {
    let drive = |(number, disk): (usize, &Disk<'_>)| {
        let image = directory.join(format!("{name}-{number}.img"));
        let mut made = DiskImage::create(&image, disk.partitions)?;
        if let (Some(source), Some((partition, _))) = (disk.source, disk.partitions.first()) {
            made.copy(partition, &source(&Project::of_this_tool())?)?;
        }
        if let Some(fill) = disk.fill {
            fill(&mut made)?;
        }
        let drive = Drive {
            controller: disk.controller,
            image,
            through: disk.through,
        };
        if disk.through == Through::Log {
            File::create(drive.log()).with_context(|| format!("cannot make {}", drive.log().display()))?;
        }
        Ok(drive)
    };
    disks.iter().enumerate().map(drive).collect()
}

/// An image with a GPT, as it lies on the host.
#[derive(Debug)]
pub(crate) struct DiskImage {
    path: PathBuf,
    file: File,
}

impl DiskImage {
    /// Makes an image with these partitions, names and sizes in MiB, each of which begins at a whole MiB.
    ///
    /// # Errors
    ///
    /// If it cannot be written, or has no room for so many partitions.
    pub(crate) fn create(path: &Path, partitions: &[(&str, u64)]) -> Result<Self> {
        let told = || format!("cannot make the disk image {}", path.display());
        let mut file = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .open(path)
            .with_context(told)?;
        let content: u64 = partitions.iter().map(|(_, mib)| mib).sum();
        // A MiB before for the table and to begin at a whole one, and one behind for the table's copy.
        let mib = match content {
            0 => EMPTY_MIB,
            content => content.saturating_add(2),
        };
        let size = mib.saturating_mul(MIB);
        file.set_len(size).with_context(told)?;
        if !partitions.is_empty() {
            let last = u32::try_from((size / SECTOR).saturating_sub(1)).unwrap_or(u32::MAX);
            ProtectiveMBR::with_lb_size(last)
                .overwrite_lba0(&mut file)
                .with_context(told)?;
            let mut table = GptConfig::new()
                .writable(true)
                .create_from_device(&mut file, None)
                .with_context(told)?;
            for (name, mib) in partitions {
                table
                    .add_partition(name, mib.saturating_mul(MIB), LINUX_FS, 0, Some(MIB / SECTOR))
                    .with_context(told)?;
            }
            table.write().with_context(told)?;
        }
        let path = path.to_owned();
        Ok(Self { path, file })
    }

    /// Opens an image that is there.
    ///
    /// # Errors
    ///
    /// If it cannot be read and written.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let file = File::options().read(true).write(true).open(path);
        let file = file.with_context(|| format!("cannot open the disk image {}", path.display()))?;
        let path = path.to_owned();
        Ok(Self { path, file })
    }

    /// The place of the partition called `name`: its first sector, and how many it has. Both copies of the partition table must be sound and say the same.
    ///
    /// # Errors
    ///
    /// If there is none, or several, or the table is damaged.
    pub(crate) fn partition(&mut self, name: &str) -> Result<(u64, u64)> {
        let path = self.path.display();
        let table = GptConfig::new()
            .only_valid_headers(true)
            .open_from_device(&mut self.file)
            .with_context(|| format!("{path} has no sound partition table"))?;
        let named: Vec<_> = table
            .partitions()
            .values()
            .filter(|partition| partition.name == name)
            .collect();
        match named[..] {
            [partition] => Ok((partition.first_lba, partition.sectors_len()?)),
            [] => bail!("{path} has no partition {name}"),
            _ => bail!("{path} has several partitions {name}"),
        }
    }

    /// Reads `count` sectors from sector `first` of the disk on.
    ///
    /// # Errors
    ///
    /// If they are not all there.
    pub(crate) fn read(&mut self, first: u64, count: u64) -> Result<Vec<u8>> {
        let mut bytes = vec![0; usize::try_from(place(count)?)?];
        self.file.seek(SeekFrom::Start(place(first)?))?;
        self.file
            .read_exact(&mut bytes)
            .with_context(|| format!("cannot read {count} sectors of {}", self.path.display()))?;
        Ok(bytes)
    }

    /// Copies the file at `from` to the partition called `name`, which is new: what is nothing but zeros is left out.
    fn copy(&mut self, name: &str, from: &Path) -> Result<()> {
        let told = || format!("cannot copy {}", from.display());
        let (first, sectors) = self.partition(name)?;
        let mut file = File::open(from).with_context(told)?;
        let length = file.metadata().with_context(told)?.len();
        if length > place(sectors)? {
            bail!("{} is too large for partition {name}", from.display());
        }
        let mut block = vec![0; usize::try_from(MIB)?];
        let mut at = place(first)?;
        loop {
            let read = file.read(&mut block).with_context(told)?;
            let block = block.get(..read).unwrap_or_default();
            if block.is_empty() {
                return Ok(());
            }
            if block.iter().any(|byte| *byte != 0) {
                self.file.seek(SeekFrom::Start(at))?;
                self.file.write_all(block)?;
            }
            at = at.saturating_add(block.len() as u64);
        }
    }

    /// Writes whole sectors from sector `first` of the disk on.
    ///
    /// # Errors
    ///
    /// If they are no whole sectors, or the disk is not that long.
    pub(crate) fn write(&mut self, first: u64, bytes: &[u8]) -> Result<()> {
        let length = bytes.len() as u64;
        let end = place(first)?.saturating_add(length);
        if !length.is_multiple_of(SECTOR) || end > self.file.metadata()?.len() {
            bail!(
                "{} has no room for {length} bytes from sector {first} on",
                self.path.display()
            );
        }
        self.file.seek(SeekFrom::Start(place(first)?))?;
        self.file.write_all(bytes)?;
        Ok(())
    }
}

/// What QEMU's `blklogwrites` keeps of a disk: everything that was written or flushed, in its order.
///
/// The format is that of Linux's dm-log-writes (`Documentation/admin-guide/device-mapper/log-writes.rst`): a sector that says how many entries there are
/// and how long sectors are, and then for each entry a sector that says what it is, and what was written.
#[derive(Debug)]
pub(crate) struct WriteLog {
    entries: Vec<Entry>,
}

/// What was done to a disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Entry {
    /// Bytes were written from this sector on.
    Wrote(u64, Vec<u8>),
    /// All that was written before is to last.
    Flushed,
    /// Something else.
    Other,
}

impl WriteLog {
    /// Reads a log of a machine that has ended.
    ///
    /// # Errors
    ///
    /// If it cannot be read, or is no log.
    pub(crate) fn read(path: &Path) -> Result<Self> {
        let told = || format!("cannot read the log of a disk {}", path.display());
        let bytes = std::fs::read(path).with_context(told)?;
        Self::parse(&bytes).with_context(|| format!("{} is no log of a disk", path.display()))
    }

    fn parse(bytes: &[u8]) -> Option<Self> {
        const MAGIC: u64 = 0x006a_7366_7773_6872;
        const FLUSH: u64 = 1;
        const DISCARD: u64 = 4;
        let number = |at: usize| {
            let bytes = bytes.get(at..at.checked_add(8)?)?;
            Some(u64::from_le_bytes(bytes.try_into().ok()?))
        };
        let count = number(16)?;
        let sector = usize::try_from(number(24)? & u64::from(u32::MAX)).ok()?;
        if number(0)? != MAGIC || number(8)? != 1 || sector < 512 {
            return None;
        }
        let scale = u64::try_from(sector).ok()?.checked_div(SECTOR)?;
        let mut entries = Vec::new();
        let mut at = sector;
        for _ in 0..count {
            let (first, sectors, flags) = (
                number(at)?,
                number(at.checked_add(8)?)?,
                number(at.checked_add(16)?)?,
            );
            let start = at.checked_add(sector)?;
            let has_data = flags & DISCARD == 0;
            let length = if has_data {
                usize::try_from(sectors).ok()?.checked_mul(sector)?
            } else {
                0
            };
            at = start.checked_add(length)?;
            if flags & FLUSH != 0 {
                entries.push(Entry::Flushed);
            } else if has_data {
                let written = bytes.get(start..at)?.to_vec();
                entries.push(Entry::Wrote(first.checked_mul(scale)?, written));
            } else {
                entries.push(Entry::Other);
            }
        }
        Some(Self { entries })
    }

    /// How often the disk was flushed.
    pub(crate) fn flushes(&self) -> usize {
        let is_flush = |entry: &&Entry| **entry == Entry::Flushed;
        self.entries.iter().filter(is_flush).count()
    }

    /// What these sectors hold if the power fails right after the flush with this number, and nothing has lasted that need not: zeros at first.
    pub(crate) fn after_flush(&self, number: usize, first: u64, sectors: u64) -> Result<Vec<u8>> {
        let mut bytes = vec![0; usize::try_from(place(sectors)?)?];
        let mut left = number.checked_add(1).context("no log is that long")?;
        let mut pending = Vec::new();
        for entry in &self.entries {
            match entry {
                Entry::Wrote(sector, written) => pending.push((*sector, written)),
                Entry::Flushed => {
                    for (sector, written) in pending.drain(..) {
                        lay(&mut bytes, first, sector, written)?;
                    }
                    left = left.saturating_sub(1);
                    if left == 0 {
                        return Ok(bytes);
                    }
                }
                Entry::Other => {}
            }
        }
        bail!("the disk was flushed {} times", self.flushes())
    }
}

/// Puts what was written at a sector into the bytes of others, as far as they have it.
fn lay(bytes: &mut [u8], first: u64, sector: u64, written: &[u8]) -> Result<()> {
    let (from, skip) = match sector.checked_sub(first) {
        Some(ahead) => (usize::try_from(place(ahead)?)?, 0),
        None => (0, usize::try_from(place(first.saturating_sub(sector))?)?),
    };
    let (Some(to), Some(written)) = (bytes.get_mut(from..), written.get(skip..)) else {
        return Ok(());
    };
    for (byte, new) in to.iter_mut().zip(written) {
        *byte = *new;
    }
    Ok(())
}

/// Where a sector begins, in bytes.
fn place(sector: u64) -> Result<u64> {
    let place = sector.checked_mul(SECTOR);
    place.with_context(|| format!("no disk has a sector {sector}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A directory of a test's own, which is gone afterwards.
    struct Place(PathBuf);

    impl Place {
        fn new(test: &str) -> Self {
            let path = std::env::temp_dir().join(format!("xtask-disks-{}-{test}", std::process::id()));
            std::fs::create_dir_all(&path).unwrap();
            Self(path)
        }
    }

    impl Drop for Place {
        fn drop(&mut self) {
            std::fs::remove_dir_all(&self.0).unwrap();
        }
    }

    #[test]
    fn partitions_are_found_by_name_each_at_a_whole_mib_and_none_over_another() {
        let place = Place::new("partitions");
        let mut image = DiskImage::create(&place.0.join("a.img"), &[("one", 1), ("two", 3)]).unwrap();
        assert_eq!(image.partition("one").unwrap(), (2048, 2048));
        assert_eq!(image.partition("two").unwrap(), (4096, 3 * 2048));
        let refused = image.partition("three").unwrap_err().to_string();
        assert!(refused.ends_with("has no partition three"), "{refused}");
    }

    #[test]
    fn what_is_written_is_read_when_the_image_is_opened_again() {
        let place = Place::new("content");
        let path = place.0.join("a.img");
        let mut image = DiskImage::create(&path, &[("one", 1)]).unwrap();
        let (first, sectors) = image.partition("one").unwrap();
        image.write(first + 1, &[7; 1024]).unwrap();
        assert!(image.write(first, &[7; 100]).is_err());
        assert!(image.write(first + sectors + 2048, &[7; 512]).is_err());
        let mut again = DiskImage::open(&path).unwrap();
        assert_eq!(again.read(first, 1).unwrap(), [0; 512]);
        assert_eq!(again.read(first + 1, 2).unwrap(), [7; 1024]);
        assert!(again.read(first + sectors + 2048, 1).is_err());
    }

    #[test]
    fn a_partition_begins_with_what_was_copied_and_never_runs_over_into_the_next() {
        let place = Place::new("copy");
        let mut image = DiskImage::create(&place.0.join("a.img"), &[("one", 3), ("two", 1)]).unwrap();
        let source = place.0.join("source");
        let content = [[1; 512].as_slice(), &[0; 2 << 20], &[2; 512]].concat();
        std::fs::write(&source, &content).unwrap();
        image.copy("one", &source).unwrap();
        let (first, _) = image.partition("one").unwrap();
        let sectors = content.len() as u64 / SECTOR;
        assert!(image.read(first, sectors).unwrap() == content);
        let refused = image.copy("two", &source).unwrap_err().to_string();
        assert!(refused.ends_with("is too large for partition two"), "{refused}");
    }

    #[test]
    fn a_damaged_partition_table_is_told_of() {
        let place = Place::new("damage");
        let mut image = DiskImage::create(&place.0.join("a.img"), &[("one", 1)]).unwrap();
        // The header of the first copy.
        image.write(1, &[0xff; 512]).unwrap();
        assert!(image.partition("one").is_err());
    }

    #[test]
    fn the_disks_of_a_machine_are_made_anew_with_what_they_are_to_have() {
        let place = Place::new("provide");
        let fill = |image: &mut DiskImage| {
            let (first, _) = image.partition("data")?;
            image.write(first, &[1; 512])
        };
        let disks = [
            Disk::new(Controller::Virtio, &[("data", 1)]).filled(fill),
            Disk::new(Controller::Nvme, &[]),
        ];
        for _ in 0..2 {
            let drives = provide(&place.0, "test", &disks).unwrap();
            let mut image = DiskImage::open(&drives[0].image).unwrap();
            assert_eq!(image.read(2048, 2).unwrap(), [[1; 512], [0; 512]].concat());
            image.write(2049, &[2; 512]).unwrap();
            let empty = std::fs::metadata(&drives[1].image).unwrap();
            assert_eq!(empty.len(), EMPTY_MIB * MIB);
        }
    }

    /// A log of these entries: first sector, flags, and what was written.
    fn logged(entries: &[(u64, u64, &[u8])]) -> Vec<u8> {
        let mut log = Vec::new();
        let mut sector = |numbers: &[u64], data: &[u8]| {
            let header: Vec<u8> = numbers.iter().flat_map(|number| number.to_le_bytes()).collect();
            log.extend_from_slice(&header);
            log.resize(log.len().next_multiple_of(512), 0);
            log.extend_from_slice(data);
        };
        sector(&[0x006a_7366_7773_6872, 1, entries.len() as u64, 512], &[]);
        for (first, flags, data) in entries {
            sector(&[*first, data.len() as u64 / 512, *flags, 0], data);
        }
        log
    }

    #[test]
    fn of_a_log_only_what_was_written_before_a_flush_is_sure_to_last() {
        const FLUSH: u64 = 1;
        let log = logged(&[
            (0, 0, &[1; 1024]),
            (0, FLUSH, &[]),
            (3, 0, &[2; 1024]),
            (1, 0, &[3; 512]),
            (0, FLUSH, &[]),
            (2, 0, &[4; 512]),
        ]);
        let log = WriteLog::parse(&log).unwrap();
        assert_eq!(log.flushes(), 2);
        let sectors = |bytes: Vec<u8>| bytes.chunks(512).map(|sector| sector[0]).collect::<Vec<_>>();
        assert_eq!(sectors(log.after_flush(0, 0, 4).unwrap()), [1, 1, 0, 0]);
        assert_eq!(sectors(log.after_flush(1, 0, 4).unwrap()), [1, 3, 0, 2]);
        // From the middle of what was written on.
        assert_eq!(sectors(log.after_flush(1, 4, 2).unwrap()), [2, 0]);
        let refused = log.after_flush(2, 0, 4).unwrap_err().to_string();
        assert_eq!(refused, "the disk was flushed 2 times");
    }

    #[test]
    fn what_is_no_log_or_is_cut_off_is_none() {
        let log = logged(&[(0, 0, &[1; 1024])]);
        assert!(WriteLog::parse(&log).is_some());
        assert!(WriteLog::parse(&log[..log.len() - 1]).is_none());
        assert!(WriteLog::parse(&[0; 4096]).is_none());
    }

    #[test]
    fn what_stands_between_a_disk_and_its_image_is_told_to_qemu() {
        let drive = |through| {
            let drive = Drive {
                controller: Controller::Virtio,
                image: "a.img".into(),
                through,
            };
            drive.arguments(0, false)[1].clone()
        };
        assert!(drive(Through::Rate(9)).contains("throttling.bps-total=9"));
        assert!(drive(Through::Log).ends_with("file.filename=a.img,log.driver=file,log.filename=a.writes"));
        let errors = drive(Through::Errors(&[(Fails::Read, 7), (Fails::Write, 8)]));
        assert!(
            errors.ends_with(
                "file.inject-error.0.event=none,file.inject-error.0.iotype=read,file.inject-error.0.sector=7,\
                 file.inject-error.1.event=none,file.inject-error.1.iotype=write,file.inject-error.1.sector=8"
            ),
            "{errors}"
        );
    }

    #[test]
    fn each_disk_has_a_place_of_its_own_on_pci() {
        let drive = |controller| Drive {
            controller,
            image: "a,b.img".into(),
            through: Through::Image,
        };
        let virtio = drive(Controller::Virtio).arguments(0, false).join(" ");
        assert_eq!(
            virtio,
            "-drive if=none,id=disk0,discard=unmap,format=raw,file=a,,b.img -device virtio-blk-pci,drive=disk0,bus=pcie.0,addr=4.0,disable-legacy=on"
        );
        let behind_iommu = drive(Controller::Virtio).arguments(0, true).join(" ");
        assert!(behind_iommu.ends_with(",iommu_platform=on"), "{behind_iommu}");
        let nvme = drive(Controller::Nvme).arguments(6, true).join(" ");
        assert!(
            nvme.contains("nvme,drive=disk6,bus=pcie.0,addr=a.0,serial=disk6"),
            "{nvme}"
        );
    }
}
