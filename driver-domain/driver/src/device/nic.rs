//! NICs.

use alloc::string::{String, ToString};

use bulkhead_devices::{
    function::Function as _,
    nic::{Event, Nic, NicInfo, Offload, Receive, Refused, Segment, Tag},
};
use bulkhead_runtime::{
    device::{DeviceMemory, PciFunction, SystemClock},
    event::Port,
};
use bulkhead_virtio::Net;

use super::Driver;
