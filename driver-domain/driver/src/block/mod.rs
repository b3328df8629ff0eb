//! Disks, served to guests.

mod grants;
pub(crate) mod measure;
mod server;
mod vbd;

pub(crate) use self::{server::Server, vbd::serve_all};
