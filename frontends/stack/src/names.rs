//! Names: the addresses that a server of names knows for them.

use alloc::vec::Vec;
use core::future::poll_fn;
use core::task::Poll;

use smoltcp::socket::dns::{GetQueryResultError, Socket};
use smoltcp::wire::{DnsQueryType, IpAddress};

use crate::error::Trouble;
use crate::stack::{Place, Stack};

/// Which addresses are asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Version {
    V4,
    V6,
}

impl<P: Place> Stack<P> {
    /// The IPv4 addresses of a name, or else those of IPv6. What is an address already needs no server.
    ///
    /// # Errors
    ///
    /// [`Trouble::UnknownName`].
    pub async fn resolve(&self, name: &str) -> Result<Vec<IpAddress>, Trouble> {
        if let Ok(address) = name.parse() {
            return Ok(alloc::vec![address]);
        }
        match self.ask(name, Version::V4).await {
            Err(_) => self.ask(name, Version::V6).await,
            found => found,
        }
    }

    async fn ask(&self, name: &str, version: Version) -> Result<Vec<IpAddress>, Trouble> {
        let handle = self.names();
        let kind = match version {
            Version::V4 => DnsQueryType::A,
            Version::V6 => DnsQueryType::Aaaa,
        };
        let query = self.with(handle, |socket: &mut Socket<'_>, context| {
            socket.start_query(context, name, kind)
        });
        let query = query.map_err(|_| Trouble::UnknownName)?;
        poll_fn(|context| {
            self.with(handle, |socket: &mut Socket<'_>, _| {
                match socket.get_query_result(query) {
                    Ok(addresses) => Poll::Ready(Ok(addresses.to_vec())),
                    Err(GetQueryResultError::Pending) => {
                        socket.register_query_waker(query, context.waker());
                        Poll::Pending
                    }
                    Err(GetQueryResultError::Failed) => Poll::Ready(Err(Trouble::UnknownName)),
                }
            })
        })
        .await
    }
}
