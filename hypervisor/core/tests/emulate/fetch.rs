//! Reading code, and code that ends too early.

use crate::{RIP, faulted, write};
use bulkhead_core::emulate::privileged::{Effect, Privileged};
use bulkhead_core::emulate::{Code, Refused, SegmentBases};
use bulkhead_core::machine::GuestFault;
use bulkhead_core::vcpu::Regs;

/// MOV qword [rdi + disp32], imm32: 11 bytes.
const LONG: [u8; 11] = [0x48, 0xc7, 0x87, 0, 0, 0, 0, 1, 0, 0, 0];

#[test]
fn code_that_ends_within_the_instruction_is_truncated_where_it_ends() {
    let fault = crate::regs().rdi;
    for len in 0..LONG.len() {
        assert_eq!(
            faulted(&LONG[..len], fault),
            Err(Refused::Truncated { at: RIP + len as u64 })
        );
    }
    assert!(write(&LONG, fault).is_ok());
}

#[test]
fn fifteen_bytes_of_prefixes_are_no_instruction() {
    // Enough bytes, so nothing is missing; the CPU refuses an instruction that is longer.
    let mut bytes = [0x66; 16];
    bytes[14] = 0x48;
    bytes[15] = 0x89;
    assert_eq!(faulted(&bytes, 0), Err(Refused::NotEmulated));
}

#[test]
fn only_the_page_of_rip_is_needed_if_the_instruction_ends_in_it() {
    const WBINVD: [u8; 2] = [0x0f, 0x09];
    for before_end in 1..=20u64 {
        let rip = RIP + 0x1000 - before_end;
        let mut asked = Vec::new();
        let code = Code::read(rip, |address, into| {
            asked.push((address, into.len()));
            assert_eq!(address >> 12, (address + into.len() as u64 - 1) >> 12);
            if address >= RIP + 0x1000 {
                return Err(GuestFault(address));
            }
            let len = into.len().min(WBINVD.len());
            into[..len].copy_from_slice(&WBINVD[..len]);
            Ok(())
        });
        let regs = Regs {
            rip,
            ..Regs::default()
        };
        let decoded = Privileged::decode(&code, &regs, SegmentBases::default());
        if before_end == 1 {
            assert_eq!(decoded, Err(Refused::Truncated { at: RIP + 0x1000 }));
        } else {
            assert_eq!(decoded.unwrap().effect, Effect::WriteBackCaches);
        }
        let first = usize::try_from(before_end).unwrap().min(Code::MAX);
        assert_eq!(asked[0], (rip, first));
    }
}

#[test]
fn an_instruction_in_two_pages_is_read_from_both() {
    let rip = RIP + 0x1000 - 3;
    let code = Code::read(rip, |address, into| {
        let from = usize::try_from(address - rip).unwrap();
        for (n, byte) in into.iter_mut().enumerate() {
            *byte = LONG.get(from + n).copied().unwrap_or(0xcc);
        }
        Ok(())
    });
    let mut whole = LONG.to_vec();
    whole.resize(Code::MAX, 0xcc);
    assert_eq!(code, Code::new(rip, &whole));
}

#[test]
fn nothing_is_read_of_the_hypervisor() {
    let never = |_: u64, _: &mut [u8]| -> Result<(), GuestFault> { panic!("must not be read") };
    let inside = 0xffff_8000_0000_1000;
    assert_eq!(Code::read(inside, never), Code::new(inside, &[]));
    // The last bytes below it are the guest's to name.
    let below = 0xffff_7fff_ffff_fffe;
    let code = Code::read(below, |address, into| {
        assert_eq!((address, into.len()), (below, 2));
        into.fill(0x90);
        Ok(())
    });
    assert_eq!(code, Code::new(below, &[0x90; 2]));
}

#[test]
fn code_that_cannot_be_read_at_all_is_truncated_at_rip() {
    let code = Code::read(RIP, |address, _| Err(GuestFault(address)));
    let regs = crate::regs();
    let bases = SegmentBases::default();
    let refused = Refused::Truncated { at: RIP };
    assert_eq!(Privileged::decode(&code, &regs, bases), Err(refused));
    assert_eq!(Privileged::decode_forced(&code, &regs), Err(refused));
}
