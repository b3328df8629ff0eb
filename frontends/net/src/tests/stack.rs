//! smoltcp over the front-end, and the same stack on the other side, with a back-end between them that passes frames on.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;

use smoltcp::iface::{Config, Interface as Stack, SocketSet};
use smoltcp::phy::{ChecksumCapabilities, DeviceCapabilities, Medium, RxToken as _, TxToken as _};
use smoltcp::socket::udp;
use smoltcp::time::Instant;
use smoltcp::wire::{
    EthernetAddress, IpCidr, IpEndpoint, IpProtocol, Ipv4Address, Ipv6Address, Ipv6Packet, Ipv6Repr,
    UdpPacket, UdpRepr,
};

use super::*;
use crate::connect::Agreement;
use crate::phy::is_right;

type Wire = Rc<RefCell<VecDeque<Vec<u8>>>>;

/// The other side: frames to and from it, as they are on a wire.
struct Far {
    to: Wire,
    from: Wire,
}

struct FarRx(Vec<u8>);
struct FarTx(Wire);

impl smoltcp::phy::RxToken for FarRx {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, f: F) -> R {
        f(&self.0)
    }
}

impl smoltcp::phy::TxToken for FarTx {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, f: F) -> R {
        let mut bytes = vec![0; len];
        let result = f(&mut bytes);
        self.0.borrow_mut().push_back(bytes);
        result
    }
}

impl smoltcp::phy::Device for Far {
    type RxToken<'a> = FarRx;
    type TxToken<'a> = FarTx;

    fn receive(&mut self, _: Instant) -> Option<(FarRx, FarTx)> {
        let bytes = self.to.borrow_mut().pop_front()?;
        Some((FarRx(bytes), FarTx(Rc::clone(&self.from))))
    }

    fn transmit(&mut self, _: Instant) -> Option<FarTx> {
        Some(FarTx(Rc::clone(&self.from)))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ethernet;
        capabilities.max_transmission_unit = 1514;
        capabilities
    }
}

/// A stack of host `number`, with a socket at port 7.
fn stack(device: &mut impl smoltcp::phy::Device, number: u8) -> (Stack, SocketSet<'static>) {
    let config = Config::new(EthernetAddress([2, 0, 0, 0, 0, number]).into());
    let mut stack = Stack::new(config, device, Instant::ZERO);
    stack.update_ip_addrs(|addresses| {
        let address = IpCidr::new(Ipv4Address::new(10, 0, 0, number).into(), 24);
        addresses.push(address).unwrap();
    });
    let buffer = || udp::PacketBuffer::new(vec![udp::PacketMetadata::EMPTY; 32], vec![0; 65536]);
    let mut socket = udp::Socket::new(buffer(), buffer());
    socket.bind(7).unwrap();
    let mut sockets = SocketSet::new(vec![]);
    sockets.add(socket);
    (stack, sockets)
}

/// An interface in this mode, without a store, and its back-end.
fn interface(mode: Mode) -> (Interface<Memory>, Server, Memory) {
    let memory = Memory::new();
    let (transmit, tx) = ring(&memory);
    let (receive, rx) = ring(&memory);
    let interface = Interface::new(Agreement {
        properties: Properties {
            mac: [2, 0, 0, 0, 0, 1],
            mtu: 1500,
            features: FEATURES,
            mode,
        },
        transmit,
        receive,
        port: memory.port().unwrap(),
        domain: memory.clone(),
        frontend: String::new(),
        backend: String::new(),
    });
    let server = Server::adopt(&memory, [tx, rx], mode);
    (interface, server, memory)
}

/// The only socket.
fn socket<'s>(sockets: &'s mut SocketSet<'static>) -> &'s mut udp::Socket<'static> {
    let (handle, _) = sockets.iter().next().unwrap();
    sockets.get_mut(handle)
}

/// Has each side send datagrams to the other. The back-end does this to frames on their way to the front-end; how many datagrams arrive at
/// which side, and how many frames the device finds wrong.
fn exchange(
    mode: Mode,
    count: usize,
    on_the_way: impl Fn(usize, &mut Vec<u8>) -> Offload,
) -> ([usize; 2], u64) {
    let (interface, mut server, _memory) = interface(mode);
    let wire = [Wire::default(), Wire::default()];
    let mut far_device = Far {
        to: Rc::clone(&wire[0]),
        from: Rc::clone(&wire[1]),
    };
    let mut near_device = Device::new(&interface);
    let (mut near, mut near_sockets) = stack(&mut near_device, 1);
    let (mut far, mut far_sockets) = stack(&mut far_device, 2);
    let mut arrived = [0, 0];
    let passed = Cell::new(0);
    for round in 0..count + 20 {
        let now = Instant::from_millis(i64::try_from(round).unwrap() * 200);
        for (side, (sockets, to)) in [(&mut near_sockets, 2), (&mut far_sockets, 1)]
            .into_iter()
            .enumerate()
        {
            let socket = socket(sockets);
            if round < count {
                let to = IpEndpoint::new(Ipv4Address::new(10, 0, 0, to).into(), 7);
                socket.send_slice(&pattern(1, 1000), to).unwrap();
            }
            while let Ok((bytes, _)) = socket.recv() {
                assert_eq!(bytes, pattern(1, 1000));
                arrived[side] += 1;
            }
        }
        near.poll(now, &mut near_device, &mut near_sockets);
        far.poll(now, &mut far_device, &mut far_sockets);
        interface.turn().unwrap();
        server.take();
        let _ = server.answer(|_| {});
        wire[0]
            .borrow_mut()
            .extend(server.taken.drain(..).map(|(bytes, _)| bytes));
        for mut bytes in wire[1].borrow_mut().drain(..) {
            let offload = on_the_way(passed.replace(passed.get() + 1), &mut bytes);
            assert!(server.send(&bytes, 4096, offload).is_some());
        }
        interface.turn().unwrap();
    }
    (arrived, near_device.wrong())
}

#[test]
fn datagrams_go_both_ways() {
    for mode in [Mode::Copy, Mode::Flip] {
        let (arrived, wrong) = exchange(mode, 30, |_, _| Offload::default());
        assert_eq!((arrived, wrong), ([30, 30], 0));
    }
}

/// Where an IPv4 frame of UDP has its checksum.
const CHECKSUM: usize = 14 + 20 + 6;

/// Spoils a frame's checksum, if it has one.
fn spoil(bytes: &mut [u8]) {
    if bytes[12..14] == [8, 0] {
        bytes[CHECKSUM] ^= 0x55;
    }
}

#[test]
fn a_wrong_checksum_is_found_unless_the_back_end_vouches_for_the_frame() {
    let (arrived, wrong) = exchange(Mode::Copy, 30, |_, bytes| {
        spoil(bytes);
        Offload::default()
    });
    assert_eq!(arrived, [0, 30]);
    assert_eq!(wrong, 30);
    for checksum in [Checksum::Blank, Checksum::Validated] {
        let (arrived, wrong) = exchange(Mode::Copy, 30, |_, bytes| {
            spoil(bytes);
            Offload {
                checksum,
                segments: None,
            }
        });
        assert_eq!((arrived, wrong), ([30, 30], 0));
    }
}

#[test]
fn a_wrong_checksum_is_found_over_ipv6_too() {
    let from = Ipv6Address::new(0xfd00, 0, 0, 0, 0, 0, 0, 1);
    let to = Ipv6Address::new(0xfd00, 0, 0, 0, 0, 0, 0, 2);
    let packet = Ipv6Repr {
        src_addr: from,
        dst_addr: to,
        next_header: IpProtocol::Udp,
        payload_len: 8 + 5,
        hop_limit: 64,
    };
    let ports = UdpRepr {
        src_port: 7,
        dst_port: 7,
    };
    let mut frame = vec![0; 14 + 40 + 8 + 5];
    frame[12..14].copy_from_slice(&[0x86, 0xdd]);
    packet.emit(&mut Ipv6Packet::new_unchecked(&mut frame[14..]));
    ports.emit(
        &mut UdpPacket::new_unchecked(&mut frame[54..]),
        &from.into(),
        &to.into(),
        5,
        |data| data.copy_from_slice(b"hello"),
        &ChecksumCapabilities::default(),
    );
    assert!(is_right(&frame));
    for at in 54..frame.len() {
        frame[at] ^= 0x55;
        assert!(!is_right(&frame), "{at}");
        frame[at] ^= 0x55;
    }
}

#[test]
fn bytes_that_are_no_packet_do_no_harm() {
    let (arrived, _) = exchange(Mode::Copy, 30, |number, bytes| {
        if number > 10 {
            let shorter = 14 + number * 7 % 60;
            bytes.truncate(shorter);
        }
        Offload::default()
    });
    assert_eq!(arrived[1], 30);
    assert!(arrived[0] < 30);
}

#[test]
fn without_room_nothing_is_received_and_nothing_is_lost() {
    let (interface, mut server, _memory) = interface(Mode::Copy);
    interface.turn().unwrap();
    server.take();
    assert!(server.send(&[0; 60], 4096, Offload::default()).is_some());
    interface.turn().unwrap();
    let mut device = Device::new(&interface);
    while interface.has_room() {
        let token = smoltcp::phy::Device::transmit(&mut device, Instant::ZERO).unwrap();
        token.consume(60, |bytes| bytes.fill(0));
    }
    assert!(smoltcp::phy::Device::transmit(&mut device, Instant::ZERO).is_none());
    assert!(smoltcp::phy::Device::receive(&mut device, Instant::ZERO).is_none());
    assert!(embassy_futures::poll_once(interface.writable()).is_pending());
    interface.turn().unwrap();
    server.take();
    let _ = server.answer(|_| {});
    interface.turn().unwrap();
    assert!(embassy_futures::poll_once(interface.writable()).is_ready());
    let (received, _) = smoltcp::phy::Device::receive(&mut device, Instant::ZERO).unwrap();
    assert_eq!(received.consume(<[u8]>::len), 60);
}
