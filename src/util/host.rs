//! What this host is: the local address that reaches a server, the process.

use std::net::{IpAddr, SocketAddr, UdpSocket};

/// The local address from which `server` is reached.
///
/// Connecting a UDP socket asks the routing table and sends nothing, so this neither blocks nor needs the server to be
/// up. polaris-go takes the local address of its server connection, which is the same address.
pub(crate) fn address_towards(server: SocketAddr) -> std::io::Result<IpAddr> {
    let any: SocketAddr = if server.is_ipv6() { ([0_u16; 8], 0).into() } else { ([0, 0, 0, 0], 0).into() };
    let socket = UdpSocket::bind(any)?;
    socket.connect(server)?;
    Ok(socket.local_addr()?.ip())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_is_reached_from_loopback() {
        let local = address_towards(([127, 0, 0, 1], 8091).into()).unwrap();
        assert!(local.is_loopback(), "{local}");
    }
}
