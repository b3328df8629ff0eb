//! What RDTSCP and RDPID tell: a number of the vCPU's own.
#![cfg(not(loom))]

use bulkhead_abi::msr;
use bulkhead_abi::trap::Vector;
use bulkhead_core::Exception;
use bulkhead_core::ids::CpuId;
use bulkhead_core::testing::World;

#[test]
fn the_number_that_a_kernel_gives_its_processor_is_told_to_nobody_else() {
    const WRMSR: [u8; 2] = [0x0f, 0x30];
    let world = World::booted(2);
    let aux = || world.sim().tsc_aux(CpuId::BOOT);
    world.write(0, World::CODE, &u16::from_le_bytes(WRMSR));
    let before = world.regs(0);
    {
        let mut regs = world.regs_mut(0);
        (regs.rip, regs.rcx) = (World::CODE, msr::TSC_AUX.into());
        (regs.rax, regs.rdx) = (0xdead_beef, 0);
    }
    world.raise(
        0,
        Exception {
            vector: Vector::GeneralProtection.raw(),
            error_code: 0,
            address: 0,
        },
    );
    assert_eq!((world.regs(0).rip, aux()), (World::CODE + 2, 0xdead_beef));
    *world.regs_mut(0) = before;
    world.yield_now(0);
    assert_eq!((world.running(0), aux()), (Some((2, 0)), 0));
    world.yield_now(0);
    assert_eq!((world.running(0), aux()), (Some((1, 0)), 0xdead_beef));
    world.invariants();
}
