//! What a test says to a control plane, and hears from it.

#![allow(clippy::must_use_candidate, reason = "setters that are called for their effect hand themselves back")]

use std::time::Duration;

use tokio::time::Instant;

use super::access::Grant;
use super::behaviour::{Behaviour, Release, RoutingForm};
use super::edit::ServiceEditor;
use super::fixtures::{TestInstance, instance};
use super::record::{Call, Rpc};
use super::script::On;
use super::server::Server;
use crate::error::{Error, ErrorKind, Result};
use crate::model::key::ServiceKey;
use crate::model::location::Location;
use crate::pb::v1;

/// How long a client that reported itself is known: three times the server's TTL of it.
const CLIENT_TTL: Duration = Duration::from_secs(360);
/// How long [`Server::wait_for`] waits.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long [`Server::wait_until`] waits.
const LONG_PATIENCE: Duration = Duration::from_secs(600);
/// How often a condition over the state is looked at, besides every change.
const GLANCE: Duration = Duration::from_millis(20);

/// How the control plane behaves. All nodes over one state behave alike.
impl Server {
    /// Speaks like this release.
    pub fn release(&self, release: Release) -> &Self {
        self.behave(|behaviour| behaviour.release = release)
    }

    /// Loses deregistrations as the standalone server's store does: acknowledged, and never seen by a client if the
    /// instance itself last changed more than 5 s before the newest change of another.
    pub fn bolt_store(&self, on: bool) -> &Self {
        self.behave(|behaviour| behaviour.bolt_store = on)
    }

    /// Clients see a write so long after it was acknowledged; about 1 s on a real server, 0 here unless set.
    pub fn visible_after(&self, delay: Duration) -> &Self {
        self.behave(|behaviour| behaviour.visible_after = delay)
    }

    /// Whether a registration creates its service and namespace. On unless set; off, it is refused with 400301.
    pub fn auto_create(&self, on: bool) -> &Self {
        self.behave(|behaviour| behaviour.auto_create = on)
    }

    /// Whether health is checked at all. On unless set; off, beats are refused with 400140.
    pub fn health_checks(&self, on: bool) -> &Self {
        self.behave(|behaviour| behaviour.health_checks = on)
    }

    /// The longest time between two checks of one instance; 30 s unless set.
    pub fn check_interval(&self, longest: Duration) -> &Self {
        self.behave(|behaviour| behaviour.check_interval = longest)
    }

    /// How long one second of a TTL lasts, to see an instance expire sooner on a clock that cannot be paused.
    pub fn ttl_second(&self, second: Duration) -> &Self {
        self.behave(|behaviour| behaviour.second = second)
    }

    /// How long a registration waits for others before it is answered, about 30 ms on a real server; meanwhile another
    /// of the same id is refused with 400208. 0 unless set.
    pub fn batch_window(&self, window: Duration) -> &Self {
        self.behave(|behaviour| behaviour.batch_window = window)
    }

    /// Serves the kinds of resource that only newer servers have, and from now on keeps the fields of a rule that public
    /// servers drop: a concurrency limit, the limiter's cluster, a breaker's blocks and priority, metadata.
    pub fn newer_kinds(&self, on: bool) -> &Self {
        self.behave(|behaviour| behaviour.newer_kinds = on)
    }

    /// Delivers routing rules in this form, whatever the release does.
    pub fn routing_form(&self, form: RoutingForm) -> &Self {
        self.behave(|behaviour| behaviour.routing_form = Some(form))
    }

    /// Puts up with HTTP/2 pings. Unless set, a connection is reset at the fourth ping closer than five minutes to the
    /// one before; a real server says GOAWAY `too_many_pings` first.
    pub fn tolerate_pings(&self, on: bool) -> &Self {
        self.behave(|behaviour| behaviour.tolerates_pings = on)
    }

    /// Goes on telling the service's own fields as they first were while it has no instances, as the cache of the main
    /// branch does.
    pub fn stale_empty_lists(&self, on: bool) -> &Self {
        self.behave(|behaviour| behaviour.stale_empty_lists = on)
    }

    /// Asks for a token from now on, and knows this one.
    pub fn token(&self, token: &str, grant: Grant) -> &Self {
        self.node.store.with(|state, _| state.access.grant(token, grant));
        self
    }

    /// Asks for a token from now on, and knows none.
    pub fn revoke_tokens(&self) -> &Self {
        self.node.store.with(|state, _| state.access.close());
        self
    }

    /// Asks for no token any more.
    pub fn without_tokens(&self) -> &Self {
        self.node.store.with(|state, _| state.access.open());
        self
    }

    fn behave(&self, change: impl FnOnce(&mut Behaviour)) -> &Self {
        self.node.store.with(|state, _| {
            change(&mut state.behaviour);
            state.answers.clear();
        });
        self
    }
}

/// What the control plane knows.
impl Server {
    /// A service, to be changed or read.
    pub fn service(&self, key: impl Into<ServiceKey>) -> ServiceEditor<'_> {
        ServiceEditor { store: &self.node.store, key: key.into() }
    }

    /// Creates a namespace.
    pub fn namespace(&self, name: impl Into<String>) -> &Self {
        let message = v1::Namespace { name: Some(name.into()), ..Default::default() };
        self.node.store.with(|state, now| {
            let at = state.visible_at(now);
            state.put_namespace(message, now, at);
        });
        self
    }

    /// Where `host` runs: told to clients that report themselves, and to instances that do not say.
    pub fn location(&self, host: impl Into<String>, location: &Location) -> &Self {
        let location = instance("", 0).location(location).message.location.unwrap_or_default();
        self.node.store.with(|state, _| drop(state.locations.insert(host.into(), location)));
        self
    }

    /// Forgets everything that was written, as if the store were lost: services, instances, rules, beats. How the
    /// server behaves, its script and its connections stay.
    pub fn wipe(&self) {
        self.node.store.with(super::store::State::wipe);
    }

    /// The ids of clients that reported themselves with one, within the last six minutes.
    #[must_use]
    pub fn clients(&self) -> Vec<String> {
        self.node.store.read(|state, now| {
            state.clients.retain(|_, reported| now < *reported + CLIENT_TTL);
            state.clients.keys().cloned().collect()
        })
    }

    /// The instances of a service that clients are told of, by id.
    #[must_use]
    pub fn instances(&self, key: impl Into<ServiceKey>) -> Vec<TestInstance> {
        self.service(key).list()
    }
}

/// What goes wrong at this node.
impl Server {
    /// Begins a fault that meets calls of this kind.
    pub fn on(&self, rpc: Rpc) -> On<'_> {
        self.node.script.on(Some(rpc))
    }

    /// Begins a fault that meets every call.
    pub fn on_any(&self) -> On<'_> {
        self.node.script.on(None)
    }

    /// Clears all faults of this node.
    pub fn clear_faults(&self) {
        self.node.script.clear();
    }

    /// Lets no byte pass in either direction and says nothing, as a network that drops every packet; connections stay,
    /// new ones are never made. Switched off, everything flows on.
    pub fn black_hole(&self, on: bool) {
        self.node.silence(on);
    }

    /// Resets every connection.
    pub fn close_connections(&self) {
        self.node.break_connections();
    }

    /// Refuses new connections, or takes them again.
    pub fn refuse_connections(&self, on: bool) {
        self.node.accepting.send_replace(!on);
    }

    /// Stops as a server that is told to: open streams end with `UNAVAILABLE`, connections when they are done, new ones
    /// are refused. [`Server::start`] undoes it.
    pub fn stop(&self) {
        self.refuse_connections(true);
        self.node.stop();
    }

    /// Takes connections again.
    pub fn start(&self) {
        self.refuse_connections(false);
    }

    /// How many connections are open.
    #[must_use]
    pub fn open_connections(&self) -> usize {
        self.node.counts().0
    }

    /// How many HTTP/2 pings clients sent to this node.
    #[must_use]
    pub fn pings(&self) -> u64 {
        self.node.pings()
    }

    /// How many connections were ever made.
    #[must_use]
    pub fn total_connections(&self) -> u64 {
        self.node.counts().1
    }
}

/// What arrived at this node.
impl Server {
    /// All calls, the oldest first: the last 100,000, unless set otherwise by [`Server::keep_calls`].
    #[must_use]
    pub fn calls(&self) -> Vec<Call> {
        self.node.record.all()
    }

    /// The calls of one kind, the oldest first.
    #[must_use]
    pub fn calls_of(&self, rpc: Rpc) -> Vec<Call> {
        self.calls().into_iter().filter(|call| call.rpc() == rpc).collect()
    }

    /// Forgets the calls so far.
    pub fn clear_calls(&self) {
        self.node.record.clear();
    }

    /// Keeps only the last `most` calls from now on.
    pub fn keep_calls(&self, most: usize) {
        self.node.record.keep(most);
    }

    /// Waits until the calls so far satisfy `condition`, and answers with them. It is asked again after every call and
    /// every answer, and must not ask the server anything itself.
    ///
    /// # Errors
    ///
    /// `Timeout` after a minute of the runtime's time; says how many calls there were.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future changes nothing.
    pub async fn wait_for(&self, condition: impl FnMut(&[Call]) -> bool) -> Result<Vec<Call>> {
        self.node.record.wait(PATIENCE, condition).await.ok_or_else(|| {
            let calls = self.calls().len();
            let text = format!("the condition did not come true among {calls} calls within {PATIENCE:?}");
            Error::new(ErrorKind::Timeout, text).with_address(self.address())
        })
    }

    /// Waits until `condition` holds of the server, such as an instance that turned unhealthy. It is asked again after
    /// every change and every 20 ms.
    ///
    /// # Errors
    ///
    /// `Timeout` after ten minutes of the runtime's time: a TTL of a minute takes more than three to expire.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future changes nothing.
    pub async fn wait_until(&self, mut condition: impl FnMut(&Self) -> bool) -> Result<()> {
        let mut changed = self.node.store.changed();
        let deadline = Instant::now() + LONG_PATIENCE;
        while !condition(self) {
            if Instant::now() >= deadline {
                let text = format!("the condition did not come true within {LONG_PATIENCE:?}");
                return Err(Error::new(ErrorKind::Timeout, text).with_address(self.address()));
            }
            // Writes also come into sight by time alone, which nothing announces.
            drop(tokio::time::timeout(GLANCE, changed.changed()).await);
        }
        Ok(())
    }
}

/// Without a connection.
impl Server {
    /// The bytes that this node answers to one request under this gRPC path, as if it had arrived; nothing where the
    /// call or the stream ends without an answer.
    #[doc(hidden)]
    pub async fn answer_to(&self, path: &str, request: Vec<u8>) -> Option<Vec<u8>> {
        let call = Call::new(Rpc::of(path), path, request, Instant::now());
        match call.rpc() {
            Rpc::Discover | Rpc::BatchHeartbeat => self.node.message(call).await?.ok()?,
            _ => self.node.unary(call).await.ok(),
        }
    }
}
