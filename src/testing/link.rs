//! One connection as the script sees it: bytes flow, stand still, or end.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;

use super::pings::Pings;
use crate::util::connect::BoxIo;

/// What becomes of the bytes of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Flow {
    Open,
    /// Nothing passes in either direction, and nothing is said: packets are dropped, and sent again once they pass.
    Stopped,
    /// Reset.
    Broken,
}

/// Rules the flow of one connection from outside.
#[derive(Debug, Clone)]
pub(super) struct Valve(Arc<Mutex<State>>);

#[derive(Debug)]
struct State {
    flow: Flow,
    /// How many bytes may still be written before the connection breaks.
    budget: Option<usize>,
    waiting: Vec<Waker>,
}

/// The server's end of a connection.
pub(super) struct Link {
    io: BoxIo,
    valve: Valve,
    pings: Pings,
    /// Tells of every ping; whether it is one too many is up to the listener.
    heard: Box<dyn Fn(u64, bool) -> Flow + Send>,
}

impl Valve {
    pub(super) fn new(flow: Flow) -> Self {
        Self(Arc::new(Mutex::new(State { flow, budget: None, waiting: Vec::new() })))
    }

    pub(super) fn set(&self, flow: Flow) {
        let waiting = {
            let mut state = self.lock();
            // What is broken stays so.
            if state.flow != Flow::Broken {
                state.flow = flow;
            }
            std::mem::take(&mut state.waiting)
        };
        waiting.into_iter().for_each(Waker::wake);
    }

    /// Breaks the connection after so many more bytes from the server.
    pub(super) fn break_after(&self, bytes: usize) {
        self.lock().budget = Some(bytes);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// `Ready` when bytes may pass: how many at most.
    fn poll(&self, cx: &Context<'_>) -> Poll<io::Result<Option<usize>>> {
        let mut state = self.lock();
        if state.budget == Some(0) {
            state.flow = Flow::Broken;
        }
        match state.flow {
            Flow::Broken => return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into())),
            Flow::Open | Flow::Stopped => {}
        }
        // Also while bytes pass: who waits for the peer must hear of a change.
        if !state.waiting.iter().any(|waker| waker.will_wake(cx.waker())) {
            state.waiting.push(cx.waker().clone());
        }
        if state.flow == Flow::Stopped { Poll::Pending } else { Poll::Ready(Ok(state.budget)) }
    }

    fn spend(&self, bytes: usize) {
        let mut state = self.lock();
        state.budget = state.budget.map(|budget| budget.saturating_sub(bytes));
    }
}

impl Link {
    /// `heard` is told how many more pings came and whether a server would put up with them, and says what becomes of
    /// the connection.
    pub(super) fn new(io: BoxIo, valve: Valve, heard: impl Fn(u64, bool) -> Flow + Send + 'static) -> Self {
        Self { io, valve, pings: Pings::new(), heard: Box::new(heard) }
    }
}

impl AsyncRead for Link {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        std::task::ready!(self.valve.poll(cx))?;
        let before = buf.filled().len();
        std::task::ready!(Pin::new(&mut self.io).poll_read(cx, buf))?;
        let pings = self.pings.count();
        let too_many = self.pings.read(buf.filled().get(before..).unwrap_or_default(), Instant::now());
        let more = self.pings.count() - pings;
        if more > 0 && (self.heard)(more, too_many) == Flow::Broken {
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Link {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let most = std::task::ready!(self.valve.poll(cx))?;
        let allowed = most.map_or(bytes.len(), |most| most.min(bytes.len()));
        let written = std::task::ready!(Pin::new(&mut self.io).poll_write(cx, bytes.get(..allowed).unwrap_or(bytes)))?;
        self.valve.spend(written);
        Poll::Ready(Ok(written))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        std::task::ready!(self.valve.poll(cx))?;
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        std::task::ready!(self.valve.poll(cx))?;
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};
    use tokio::time::timeout;

    const WHILE: Duration = Duration::from_secs(60);

    #[tokio::test(start_paused = true)]
    async fn a_stopped_link_says_nothing_and_loses_nothing() {
        let (mut client, server) = duplex(64);
        let valve = Valve::new(Flow::Stopped);
        let mut link = Link::new(Box::new(server), valve.clone(), |_, _| Flow::Open);
        client.write_all(b"hello").await.unwrap();
        let mut bytes = [0; 5];
        assert!(timeout(WHILE, link.read_exact(&mut bytes)).await.is_err());
        valve.set(Flow::Open);
        link.read_exact(&mut bytes).await.unwrap();
        assert_eq!(&bytes, b"hello");
    }

    #[tokio::test(start_paused = true)]
    async fn a_broken_link_fails_and_stays_broken() {
        let (_client, server) = duplex(64);
        let valve = Valve::new(Flow::Open);
        let mut link = Link::new(Box::new(server), valve.clone(), |_, _| Flow::Open);
        let breaking = async {
            tokio::task::yield_now().await;
            valve.set(Flow::Broken);
            valve.set(Flow::Open);
        };
        let mut byte = [0];
        let (read, ()) = tokio::join!(link.read_exact(&mut byte), breaking);
        assert_eq!(read.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
    }

    #[tokio::test(start_paused = true)]
    async fn a_budget_lets_part_of_an_answer_out() {
        let (mut client, server) = duplex(64);
        let valve = Valve::new(Flow::Open);
        let mut link = Link::new(Box::new(server), valve.clone(), |_, _| Flow::Open);
        valve.break_after(3);
        assert!(link.write_all(b"hello").await.is_err());
        drop(link);
        let mut seen = String::new();
        client.read_to_string(&mut seen).await.unwrap();
        assert_eq!(seen, "hel");
    }
}
