//! How a connection is made: TCP by default, a pipe to the in-memory server under `testing`.

use std::fmt::Debug;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

/// A byte stream to a server.
pub(crate) trait Io: AsyncRead + AsyncWrite + Send + Unpin + 'static {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin + 'static> Io for T {}

/// A byte stream, and the address it leads to where there is one.
pub(crate) type BoxIo = Box<dyn Io>;

/// A future that a [`Connector`] answers with.
pub(crate) type Connecting<T> = Pin<Box<dyn Future<Output = io::Result<T>> + Send>>;

/// Makes connections. Deadlines are the caller's.
pub(crate) trait Connector: Debug + Send + Sync + 'static {
    /// Opens a connection to `host:port`. A name is resolved anew each time, and all its addresses are tried.
    fn connect(&self, host: String, port: u16) -> Connecting<BoxIo>;

    /// The addresses that `host:port` stands for right now.
    fn resolve(&self, host: String, port: u16) -> Connecting<Vec<SocketAddr>>;
}

/// Plain TCP.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Tcp;

impl Connector for Tcp {
    fn connect(&self, host: String, port: u16) -> Connecting<BoxIo> {
        Box::pin(async move {
            // Tries every address of the name, in the resolver's order.
            let stream = TcpStream::connect((host.as_str(), port)).await?;
            stream.set_nodelay(true)?;
            Ok(Box::new(stream) as BoxIo)
        })
    }

    fn resolve(&self, host: String, port: u16) -> Connecting<Vec<SocketAddr>> {
        Box::pin(async move { Ok(tokio::net::lookup_host((host.as_str(), port)).await?.collect()) })
    }
}
