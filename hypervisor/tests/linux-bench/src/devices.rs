//! What a packet of 1500 bytes and a read of 4 KiB take, beside what they take of who has the device: that is told by others, between the marks
//! `MARK NAME begins` and `MARK NAME ends COUNT` of each.
//!
//! The other end of the wire serves datagrams as `bulkhead_stack::speed` tells it.

use std::fs::File;
use std::io::{Seek as _, SeekFrom};
use std::net::{Ipv4Addr, UdpSocket};
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::thread;
use std::time::Duration;

use crate::meter::{Meter, say};
use crate::system::{Mapping, PAGE, WRITABLE};

/// How many packets or reads are measured.
const COUNT: u64 = 4000;

/// What a datagram has, so that its packet has 1500 bytes.
const DATAGRAM: u32 = 1472;

/// How many packets come at a time: the socket has room for them.
const ROW: u32 = 32;

const DISK: &str = "/dev/xvda";

/// Measures all, and tells of it. `peer` is at the other end of the wire.
pub(crate) fn measure(peer: &str) {
    let meter = Meter::new();
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap();
    socket.connect(peer).unwrap();
    // After so long the rest of a row is lost.
    socket.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
    // Everybody on the way knows where everybody is.
    receive_row(&socket);
    between_marks(&meter, "packet-out", || send_packets(&socket));
    between_marks(&meter, "packet-in", || {
        (0..COUNT / u64::from(ROW)).map(|_| receive_row(&socket)).sum()
    });
    let disk = File::options()
        .read(true)
        .custom_flags(libc::O_DIRECT)
        .open(DISK)
        .unwrap();
    between_marks(&meter, "read-4k", || read_pages(&disk));
    say("CHECK linux-bench ok");
}

/// Measures something that does as many operations as it says, while others can look at what its driver does.
fn between_marks(meter: &Meter, name: &str, work: impl FnOnce() -> u64) {
    const LOOK: Duration = Duration::from_secs(3);
    say(&format!("MARK linux-{name} begins"));
    thread::sleep(LOOK);
    let count = meter.once(name, work);
    say(&format!("MARK linux-{name} ends {count}"));
    thread::sleep(LOOK);
}

/// Sends datagrams that mean nothing.
fn send_packets(socket: &UdpSocket) -> u64 {
    for _ in 0..COUNT {
        socket.send(&[0; DATAGRAM as usize]).unwrap();
    }
    COUNT
}

/// Asks for a row of datagrams, and receives them. How many came.
fn receive_row(socket: &UdpSocket) -> u64 {
    let order = [*b"send", ROW.to_be_bytes(), DATAGRAM.to_be_bytes()];
    socket.send(order.as_flattened()).unwrap();
    let mut datagram = [0; DATAGRAM as usize];
    let came = (0..ROW).take_while(|_| socket.recv(&mut datagram).is_ok());
    came.count() as u64
}

/// Reads pages from all over the disk, one after the other.
fn read_pages(mut disk: &File) -> u64 {
    let pages = disk.seek(SeekFrom::End(0)).unwrap() / PAGE as u64;
    let mut page = Mapping::new(PAGE, WRITABLE, None);
    let mut random = 1_u64;
    for _ in 0..COUNT {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        let place = (random >> 33) % pages;
        disk.read_exact_at(page.bytes_mut(), place * PAGE as u64).unwrap();
    }
    COUNT
}
