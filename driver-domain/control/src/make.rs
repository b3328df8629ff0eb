//! Making a guest's domain: the builder's [`Target`] by hypercalls, and what ties the new domain to the control domain.

use alloc::{borrow::Cow, format, rc::Rc, string::String};
use core::{
    cell::{Cell, RefCell},
    time::Duration,
};

use bulkhead_abi::{
    Buffered, Errno, control::CreateDomain, errno::Failure, grant::GrantEntry, vcpu::VcpuGuestContext,
};
use bulkhead_builder::{Built, Bytes, GuestSpec, Target, build, kernel};
use bulkhead_image::Image;
use bulkhead_ring::Role;
use bulkhead_runtime::{DomId, domains, event::Port, grant::GrantRef, time::Instant};
use embassy_futures::yield_now;
use embassy_sync::signal::Signal;

use crate::{
    Control,
    archive::{FileSource, read_whole},
    drivers,
    guests::{DriverPart, Record, Resident},
    rings::{self, Typed},
};

/// The entry of a guest's grant table that is its console ring, as toolstacks have it.
const CONSOLE_GRANT: GrantRef = GrantRef::new(0);

/// The entry that is its ring to xenstore.
const STORE_GRANT: GrantRef = GrantRef::new(1);

/// The domain that serves a guest's rings.
const CONTROL: DomId = DomId::new(0);

/// The most that a kernel may have unpacked, in bytes.
const MAX_KERNEL: usize = 512 << 20;

/// How many pages a driver may have beside its kept memory: they change hands with guests, which what is kept cannot.
const POOL: u64 = 1024;

/// Makes the domain of a guest, which was asked for at `asked` of the wall clock: built, known to xenstore, its console at hand, not yet running.
///
/// # Errors
///
/// In a sentence; nothing is left behind then.
pub(crate) async fn resident(
    control: &'static Control,
    record: &Record,
    asked: Duration,
) -> Result<Rc<Resident>, String> {
    let built = built(control, record).await?;
    if let Some(driver) = &record.driver
        && let Err(error) = drivers::equip(driver, built.domain)
    {
        give_up(built.domain);
        return Err(format!("{}: {error}", record.name));
    }
    let resident = tie(&built);
    let resident = match resident {
        Ok(resident) => Rc::new(resident),
        Err(error) => {
            give_up(built.domain);
            return Err(format!("{}: its rings cannot be reached: {error}", record.name));
        }
    };
    if let Err(error) = control
        .store
        .introduce(control, &resident, (record, asked), &built)
    {
        resident.let_go();
        control
            .store
            .forget(control, built.domain, record.driver.is_some());
        give_up(built.domain);
        return Err(format!("{}: xenstore refuses it: {error}", record.name));
    }
    Ok(resident)
}

fn give_up(domain: DomId) {
    if let Err(error) = domains::destroy(domain) {
        log::error!("domain {} stays, half made: {error}", domain.raw());
    }
}

/// Has the builder make the domain.
async fn built(control: &'static Control, record: &Record) -> Result<Built, String> {
    let wanted = record.wanted.borrow().clone();
    let missing = |file: &str| format!("{}: the boot archive has no file {file}", record.name);
    let of_guest = |error: String| format!("{}: {error}", record.name);
    let kernel_name = wanted.kernel.as_str();
    let of_kernel =
        |error: &dyn core::fmt::Display| format!("{}: kernel {kernel_name}: {error}", record.name);
    let elf = match record
        .driver
        .as_ref()
        .and_then(|driver| driver.image_of(kernel_name))
    {
        Some(image) => image,
        None => {
            let file = control
                .archive
                .file(kernel_name)
                .ok_or_else(|| missing(kernel_name))?;
            let packed = read_whole(file).await.map_err(of_guest)?;
            let elf = kernel::load(&packed, MAX_KERNEL, async || yield_now().await)
                .await
                .map_err(|error| of_kernel(&error))?;
            let unpacked = match elf {
                Cow::Owned(elf) => Some(elf),
                Cow::Borrowed(_) => None,
            };
            // One that is not packed is the file.
            Rc::new(unpacked.unwrap_or(packed))
        }
    };
    if let Some(driver) = &record.driver {
        // When it is to be made anew, nothing is read and unpacked.
        driver.image.replace(Some((kernel_name.into(), Rc::clone(&elf))));
        drivers::keep_memory(driver).map_err(of_guest)?;
    }
    let kernel = Image::parse(&elf).map_err(|error| of_kernel(&error))?;
    let spec = GuestSpec {
        domain: record.driver.as_ref().map(DriverPart::domain),
        name: &record.name,
        vcpus: wanted.vcpus.get(),
        weight: u16::try_from(wanted.weight.get()).unwrap_or(u16::MAX),
        cpus: wanted.cpus.bits(),
        pages: wanted.memory().pages(),
        most_pages: wanted.max_memory().pages().saturating_add(match record.driver {
            Some(_) => POOL,
            None => 0,
        }),
        extent: record.driver.as_ref().map(DriverPart::extent),
        command_line: wanted.command_line.as_str(),
        store: CONTROL,
        console: CONTROL,
    };
    let mut target = ByHypercalls;
    match wanted.ramdisk.as_ref().map(|name| name.as_str()) {
        Some(name) => {
            let file = control.archive.file(name).ok_or_else(|| missing(name))?;
            build(&mut target, &spec, &kernel, Some(&mut FileSource::new(file))).await
        }
        None => build(&mut target, &spec, &kernel, None::<&mut Bytes<'_>>).await,
    }
    .map_err(|error| format!("{}: {error}", record.name))
}

/// Maps a new domain's rings, and binds its ports.
fn tie(built: &Built) -> Result<Resident, String> {
    let told = |what: &str, error: &dyn core::fmt::Display| format!("{what}: {error}");
    let domain = built.domain;
    let console =
        rings::map(Role::ConsoleBackEnd, domain, CONSOLE_GRANT).map_err(|error| told("console", &error))?;
    let store =
        rings::map(Role::StoreServer, domain, STORE_GRANT).map_err(|error| told("xenstore", &error))?;
    let bind = |port| Port::bind_interdomain(domain, port).map_err(|error| told("event channel", &error));
    Ok(Resident {
        id: domain,
        started: Instant::now(),
        console: RefCell::new(Some(console)),
        console_port: bind(built.console_port)?,
        typed: RefCell::new(Typed::default()),
        store: RefCell::new(Some(store)),
        store_port: bind(built.store_port)?,
        store_told: Signal::new(),
        console_ends: Signal::new(),
        store_ends: Signal::new(),
        has_ended: Cell::new(false),
    })
}

/// The machine that the control domain runs on.
struct ByHypercalls;

impl Target for ByHypercalls {
    fn create(&mut self, wanted: &CreateDomain) -> Result<DomId, Failure> {
        domains::create(wanted)
    }

    fn destroy(&mut self, domain: DomId) -> Result<(), Failure> {
        domains::destroy(domain)
    }

    fn shared_info(&mut self, domain: DomId) -> Result<u64, Failure> {
        let info = domains::info(domain)?;
        if info.domain == domain {
            Ok(info.shared_info)
        } else {
            Err(Errno::Srch.into())
        }
    }

    fn populate(&mut self, domain: DomId, pages: &mut [u64], order: u32) -> Result<u64, Failure> {
        domains::populate(domain, pages, order)
    }

    fn write(&mut self, domain: DomId, frame: u64, offset: u32, bytes: &[u8]) -> Result<(), Failure> {
        domains::write(domain, frame, offset, bytes)
    }

    fn alloc_unbound(&mut self, domain: DomId, remote: DomId) -> Result<u32, Failure> {
        domains::alloc_unbound(domain, remote)
    }

    fn seed_grant(&mut self, domain: DomId, reference: u32, entry: &GrantEntry) -> Result<(), Failure> {
        let mut frames = [0];
        domains::grant_table(domain, &mut frames)?;
        let [table] = frames;
        // Of the first frame alone; what is beyond it is refused.
        let place = reference.checked_mul(8);
        domains::write(
            domain,
            table,
            place.ok_or(Errno::Inval)?,
            entry.to_bytes().as_ref(),
        )
    }

    fn pin_root(&mut self, domain: DomId, frame: u64) -> Result<(), Failure> {
        domains::pin(domain, 4, frame)
    }

    fn set_vcpu(&mut self, domain: DomId, vcpu: u32, context: &VcpuGuestContext) -> Result<(), Failure> {
        domains::set_vcpu(domain, vcpu, context)
    }

    async fn pause(&mut self) {
        yield_now().await;
    }
}
