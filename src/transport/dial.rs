//! One dial of one connection, and what became of it.
//!
//! The connect deadline covers resolving, TCP and the server's first byte: a port that accepts and stays silent must not
//! hold its callers until their own deadlines. A server of HTTP/2 speaks first, so silence means trouble. What went
//! wrong is kept in words, because tonic reports little more than "transport error".

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use http::Uri;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep};
use tower_service::Service;

use crate::model::server::ServerAddr;
use crate::util::connect::{BoxIo, Connector};
use crate::util::deadline::after;

/// The state of a connection, shared between who uses it and who carries its bytes.
#[derive(Debug, Default)]
pub(crate) struct Line {
    progress: Mutex<Progress>,
    /// Counts what went out.
    writes: AtomicU64,
}

#[derive(Debug, Default)]
struct Progress {
    dialled: bool,
    ended: bool,
    fault: Option<(io::ErrorKind, String)>,
}

/// Makes the connection, once.
#[derive(Debug)]
pub(crate) struct Dial {
    connector: Arc<dyn Connector>,
    server: ServerAddr,
    within: Duration,
    line: Arc<Line>,
}

/// The bytes of a connection, watched.
pub(crate) struct Wire {
    io: BoxIo,
    line: Arc<Line>,
    /// Until the first byte has come.
    silence: Option<Pin<Box<Sleep>>>,
    within: Duration,
}

// === impl Line ===

impl Line {
    /// Whether the connection ended, or could not be made.
    pub(crate) fn has_ended(&self) -> bool {
        self.lock().ended
    }

    /// Why it ended, if not in peace.
    pub(crate) fn fault(&self) -> Option<String> {
        self.lock().fault.as_ref().map(|(_, text)| text.clone())
    }

    /// Grows with everything that goes out: what was begun when it was the same has not left.
    pub(crate) fn writes(&self) -> u64 {
        self.writes.load(Ordering::Relaxed)
    }

    /// Takes the first fault down: what follows from it says less. The error to hand on.
    fn fail(&self, kind: io::ErrorKind, text: String) -> io::Error {
        let mut progress = self.lock();
        progress.ended = true;
        let (kind, text) = progress.fault.get_or_insert((kind, text));
        io::Error::new(*kind, text.clone())
    }

    /// Whether this is the first dial; if not, what became of the first.
    fn begin(&self) -> io::Result<()> {
        let mut progress = self.lock();
        if !std::mem::replace(&mut progress.dialled, true) {
            return Ok(());
        }
        // A connection may end for new requests and stay open for a stream: whoever comes next needs another one.
        progress.ended = true;
        Err(match &progress.fault {
            Some((kind, text)) => io::Error::new(*kind, text.clone()),
            None => io::Error::new(io::ErrorKind::NotConnected, "the connection has ended"),
        })
    }

    fn lock(&self) -> MutexGuard<'_, Progress> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl Dial ===

impl Dial {
    pub(crate) fn new(connector: Arc<dyn Connector>, server: ServerAddr, within: Duration, line: Arc<Line>) -> Self {
        Self { connector, server, within, line }
    }
}

impl Service<Uri> for Dial {
    type Response = TokioIo<Wire>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Self::Response>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        let (connector, line, within) = (Arc::clone(&self.connector), Arc::clone(&self.line), self.within);
        let (host, port) = (self.server.host.to_string(), self.server.port);
        Box::pin(async move {
            line.begin()?;
            let deadline = after(Instant::now(), within);
            let io = match tokio::time::timeout_at(deadline, connector.connect(host, port)).await {
                Ok(Ok(io)) => io,
                Ok(Err(error)) => return Err(line.fail(error.kind(), error.to_string())),
                Err(_) => {
                    return Err(line.fail(io::ErrorKind::TimedOut, format!("no connection within {within:?}")));
                }
            };
            let silence = Some(Box::pin(tokio::time::sleep_until(deadline)));
            Ok(TokioIo::new(Wire { io, line, silence, within }))
        })
    }
}

// === impl Wire ===

impl Wire {
    /// The first read tells whether somebody speaks at all, and what.
    fn greet(&mut self, cx: &mut Context<'_>, read: Poll<io::Result<()>>, bytes: &[u8]) -> Poll<io::Result<()>> {
        let Some(silence) = &mut self.silence else { return read };
        match read {
            Poll::Pending if silence.as_mut().poll(cx).is_ready() => {
                let text = format!("the port is open, and nothing was heard from it within {:?}", self.within);
                Poll::Ready(Err(self.line.fail(io::ErrorKind::TimedOut, text)))
            }
            Poll::Ready(Ok(())) if bytes.is_empty() => {
                let text = "the server closed the connection at once".to_owned();
                Poll::Ready(Err(self.line.fail(io::ErrorKind::ConnectionReset, text)))
            }
            Poll::Ready(Ok(())) if bytes.starts_with(b"HTTP/") => {
                let text = "the port speaks HTTP/1: give the server's gRPC port, 8091 by default".to_owned();
                Poll::Ready(Err(self.line.fail(io::ErrorKind::InvalidData, text)))
            }
            Poll::Ready(Ok(())) => {
                self.silence = None;
                read
            }
            other => other,
        }
    }
}

impl Wire {
    fn count(&self, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if matches!(written, Poll::Ready(Ok(1..))) {
            self.line.writes.fetch_add(1, Ordering::Relaxed);
        }
        written
    }
}

impl AsyncRead for Wire {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let read = Pin::new(&mut *self.io).poll_read(cx, buf);
        let read = self.greet(cx, read, buf.filled().get(before..).unwrap_or_default());
        match read {
            Poll::Ready(Err(error)) => Poll::Ready(Err(self.line.fail(error.kind(), error.to_string()))),
            Poll::Ready(Ok(())) if buf.filled().len() == before => {
                let text = "the server closed the connection".to_owned();
                self.line.fail(io::ErrorKind::ConnectionReset, text);
                read
            }
            other => other,
        }
    }
}

impl AsyncWrite for Wire {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut *self.io).poll_write(cx, buf);
        self.count(written)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.io).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut *self.io).poll_write_vectored(cx, bufs);
        self.count(written)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        self.line.lock().ended = true;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_that_is_dialled_again_has_ended_for_new_requests() {
        let line = Line::default();
        assert!(line.begin().is_ok() && !line.has_ended());
        assert!(line.begin().is_err() && line.has_ended());
    }
}
