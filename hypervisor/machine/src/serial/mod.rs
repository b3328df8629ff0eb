//! The serial port COM1: the only device that the hypervisor drives for people to read.
//!
//! [`Port`] is the driver proper, used under the console's lock ([`crate::console`]). [`RawPort`] is the path of
//! a crash: it takes no lock, keeps no state, and works whatever the driver was doing when it was interrupted.

use uart_16550::backend::PioBackend;
use uart_16550::spec::registers::{FifoTriggerLevel, IER};
use uart_16550::{BaudRate, Config, Uart16550};
use x86_64::instructions::port::{Port as IoPort, PortReadOnly};

/// The first I/O port of COM1.
const COM1: u16 = 0x3f8;
/// Line status register.
const LINE_STATUS: u16 = COM1 + 5;
/// Line status: the transmitter takes another byte.
const TRANSMIT_EMPTY: u8 = 1 << 5;
/// How often a full transmitter is looked at before a byte is given up: about a second on any machine, so that
/// a dead port slows the hypervisor down and never stops it.
const PATIENCE: u32 = 1_000_000;

/// COM1 at 115200 baud, 8 bits, no parity.
#[derive(Debug)]
pub(crate) struct Port {
    uart: Uart16550<PioBackend>,
}

impl Port {
    /// Programs the port; `None` if the machine has none.
    ///
    /// # Safety
    ///
    /// No other `Port` may exist.
    pub(crate) unsafe fn open() -> Option<Self> {
        // SAFETY: these are COM1's ports on every PC, and the caller promises that nobody else uses them.
        let mut uart = unsafe { Uart16550::new_port(COM1) }.ok()?;
        if !uart.check_present() {
            return None;
        }
        uart.init(Config {
            baud_rate: BaudRate::Baud115200,
            // So that there is time to fetch what comes.
            fifo_trigger_level: Some(FifoTriggerLevel::One),
            ..Config::DEFAULT
        })
        .ok()?;
        Some(Self { uart })
    }

    /// Sends `bytes`; gives up what is left if the port takes nothing for a long time.
    pub(crate) fn send(&mut self, bytes: &[u8]) {
        let mut rest = bytes;
        let mut patience = PATIENCE;
        while !rest.is_empty() && patience > 0 {
            let sent = self.uart.send_bytes(rest);
            rest = rest.get(sent..).unwrap_or_default();
            patience = if sent == 0 {
                patience.saturating_sub(1)
            } else {
                PATIENCE
            };
        }
    }

    /// Has the port interrupt when something is received, from now on.
    pub(crate) fn interrupt_on_receipt(&mut self) {
        self.uart.enable_interrupts(IER::DATA_READY);
    }

    /// Takes a received byte, if there is one.
    pub(crate) fn receive(&mut self) -> Option<u8> {
        self.uart.try_receive_byte().ok()
    }
}

/// COM1 without a driver, for crash dumps.
#[derive(Debug)]
pub(crate) struct RawPort(());

impl RawPort {
    /// The port, for code that will not return: whoever used it before is never resumed.
    pub(crate) const fn seize() -> Self {
        Self(())
    }

    fn send(&mut self, byte: u8) {
        let mut status = PortReadOnly::<u8>::new(LINE_STATUS);
        let mut data = IoPort::<u8>::new(COM1);
        for _ in 0..PATIENCE {
            // SAFETY: reading the line status has no effect that matters in a crash.
            if unsafe { status.read() } & TRANSMIT_EMPTY != 0 {
                break;
            }
        }
        // SAFETY: writing the data register of COM1 sends a byte and touches no memory.
        unsafe { data.write(byte) };
    }
}

impl core::fmt::Write for RawPort {
    fn write_str(&mut self, text: &str) -> core::fmt::Result {
        for byte in text.bytes() {
            if byte == b'\n' {
                self.send(b'\r');
            }
            self.send(byte);
        }
        Ok(())
    }
}
