//! What the tests of the provider's side share.

#![allow(dead_code, unreachable_pub, reason = "each test binary uses a part of it")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests fail as tests do")]

use std::io::Write;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use polarismesh::testing::{Call, Rpc, Server, TestInstance};
use polarismesh::{Register, Registration, RegistrationState, ServiceKey};
use tokio::time::Instant;
use tracing_subscriber::fmt::MakeWriter;

pub const TTL: Duration = Duration::from_secs(5);
pub const HOST: &str = "10.0.0.1";

pub fn key() -> ServiceKey {
    ServiceKey::new("default", "payments")
}

pub fn at(port: u16) -> Register {
    Register::new(key(), (HOST, port))
}

/// What clients see of the instance on `port`.
pub fn seen(server: &Server, port: u16) -> Option<TestInstance> {
    server.instances(key()).into_iter().find(|instance| instance.addr().port() == port)
}

/// Waits until the instance on `port` is seen, or is not.
pub async fn until_seen(server: &Server, port: u16, yes: bool) {
    let condition = |server: &Server| seen(server, port).is_some() == yes;
    server.wait_until(condition).await.unwrap();
}

pub fn count(server: &Server, rpc: Rpc) -> usize {
    server.calls_of(rpc).len()
}

/// The kinds of the calls about instances, in order.
pub fn order(server: &Server) -> Vec<Rpc> {
    let about = |rpc: &Rpc| matches!(rpc, Rpc::Register | Rpc::Deregister | Rpc::Heartbeat);
    server.calls().iter().map(Call::rpc).filter(about).collect()
}

pub fn times(calls: &[Call], since: Instant) -> Vec<Duration> {
    calls.iter().map(|call| call.at() - since).collect()
}

/// A field of the request's JSON.
pub fn field(call: &Call, name: &str) -> serde_json::Value {
    let json: serde_json::Value = serde_json::from_str(&call.json()).unwrap();
    json.get(name).cloned().unwrap_or_default()
}

pub fn name(state: &RegistrationState) -> &'static str {
    match state {
        RegistrationState::Pending => "pending",
        RegistrationState::Registered => "registered",
        RegistrationState::Lost(_) => "lost",
        RegistrationState::Rejected(_) => "rejected",
        RegistrationState::Gone => "gone",
        _ => "another",
    }
}

/// Waits until the registration stands so; panics after ten minutes.
#[track_caller]
pub fn until(registration: &Registration, wanted: &'static str) -> impl Future<Output = RegistrationState> {
    let caller = std::panic::Location::caller();
    let mut watch = registration.watch();
    async move {
        let mut last = "nothing";
        let come = async {
            while let Some(state) = watch.next().await {
                last = name(&state);
                if last == wanted {
                    return Some(state);
                }
            }
            None
        };
        let come = tokio::time::timeout(Duration::from_secs(600), come).await;
        come.ok().flatten().unwrap_or_else(|| panic!("{caller}: {wanted} is waited for, {last} was last"))
    }
}

/// Lets `time` pass on a paused clock, in which everything that is due happens.
pub async fn pass(time: Duration) {
    tokio::time::sleep(time).await;
}

/// What was logged at WARN and above by the current thread.
#[derive(Clone, Default)]
pub struct Log(Arc<Mutex<Vec<u8>>>);

impl Log {
    pub fn start() -> (Self, tracing::subscriber::DefaultGuard) {
        let log = Self::default();
        let subscriber = tracing_subscriber::fmt()
            .with_max_level(tracing::Level::WARN)
            .with_ansi(false)
            .with_writer(log.clone())
            .finish();
        (log, tracing::subscriber::set_default(subscriber))
    }

    pub fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }

    pub fn lines_with(&self, needle: &str) -> usize {
        self.text().lines().filter(|line| line.contains(needle)).count()
    }
}

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl MakeWriter<'_> for Log {
    type Writer = Self;

    fn make_writer(&self) -> Self {
        self.clone()
    }
}
