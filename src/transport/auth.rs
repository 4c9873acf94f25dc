//! What every request carries: the access token, a request id, who asks.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;
use tonic::metadata::{Ascii, MetadataMap, MetadataValue};

use crate::error::{Error, ErrorKind, Result};
use crate::transport::token::TokenSource;
use crate::util::task::TaskScope;

/// How long a token from a file or a function is used before it is asked for again.
const KEEP: Duration = Duration::from_secs(45);
/// The shortest time between two refreshes that refusals ask for.
const REFRESH_PAUSE: Duration = Duration::from_secs(1);
/// How long a token source may take.
const SOURCE_TIMEOUT: Duration = Duration::from_secs(2);

/// The RPCs, as they are told apart in request ids and messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Operation {
    Register,
    Deregister,
    Heartbeat,
    Discover,
    ReportClient,
    /// All that goes to a limiter.
    Limiter,
}

/// Gives every request its metadata. Shared by a context and its twins.
///
/// At most one read of the source is under way at a time, and all who need its outcome wait for that one: a function
/// that hangs holds one thread, however many calls are made meanwhile. Each token that differs from the one before has a
/// new generation, so that who was refused can tell whether the token has changed since it was sent.
#[derive(Debug)]
pub(crate) struct Auth {
    source: TokenSource,
    scope: TaskScope,
    shared: Arc<Shared>,
    next_id: AtomicU64,
}

/// What a request was given.
#[derive(Debug, Clone)]
pub(crate) struct Stamp {
    pub(crate) id: Arc<str>,
    /// Of the token.
    pub(crate) generation: u64,
}

/// What a read of the source, which may outlive its caller's patience, leaves its outcome in.
#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    /// Counts the reads that have come to an end.
    done: watch::Sender<u64>,
}

#[derive(Default)]
struct State {
    token: Option<MetadataValue<Ascii>>,
    generation: u64,
    asked: Option<Instant>,
    refreshed: Option<Instant>,
    reading: bool,
    failure: Option<Error>,
}

/// The read that is under way. However it goes, it comes to an end.
struct Reading(Option<Arc<Shared>>);

/// A wait for the read that is under way, with the read itself where it is to be begun.
struct Turn {
    done: watch::Receiver<u64>,
    begin: Option<Reading>,
}

// === impl Operation ===

impl Operation {
    /// The digit that polaris-go begins the request ids of this operation with; servers' logs are read by it.
    const fn digit(self) -> char {
        match self {
            Self::Register => '1',
            Self::Deregister => '2',
            Self::Heartbeat => '3',
            Self::Discover => '4',
            Self::ReportClient => '5',
            Self::Limiter => '6',
        }
    }

    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Register => "register",
            Self::Deregister => "deregister",
            Self::Heartbeat => "heartbeat",
            Self::Discover => "discover",
            Self::ReportClient => "report client",
            Self::Limiter => "limiter",
        }
    }

    /// Whether a try that got no answer may be made again on the same server, which may be at it still. Two
    /// registrations of one instance in one batch of a server's are more than some servers survive.
    pub(crate) const fn is_repeatable(self) -> bool {
        !matches!(self, Self::Register)
    }
}

// === impl Auth ===

impl Auth {
    pub(crate) fn new(source: TokenSource, scope: TaskScope) -> Self {
        // Below 2^53, which tools that read logs as JSON can hold; apart from other clients by the random start.
        let first = rand::random::<u64>() >> 16;
        Self { source, scope, shared: Arc::default(), next_id: AtomicU64::new(first) }
    }

    /// Writes token and request id, by `until`.
    pub(crate) async fn stamp(
        &self,
        metadata: &mut MetadataMap,
        operation: Operation,
        until: Instant,
    ) -> Result<Stamp> {
        let (token, generation) = self.token(until).await?;
        if let Some(token) = token {
            metadata.insert("x-polaris-token", token);
        }
        Ok(Stamp { id: self.number(metadata, operation), generation })
    }

    /// Writes the request id only. Who it goes to is not to see the token.
    pub(crate) fn number(&self, metadata: &mut MetadataMap, operation: Operation) -> Arc<str> {
        let id = format!("{}{}", operation.digit(), self.next_id.fetch_add(1, Ordering::Relaxed));
        if let Ok(mut value) = MetadataValue::try_from(id.as_str()) {
            // No other request carries it: in HTTP/2's compression tables it would only push out what comes again.
            value.set_sensitive(true);
            metadata.insert("request-id", value);
        }
        id.into()
    }

    /// Whether the source may have another token, or any at all, a moment later.
    pub(crate) fn can_change(&self) -> bool {
        self.source.as_fixed().is_none()
    }

    /// The token and its generation, asked for again when it is old.
    async fn token(&self, until: Instant) -> Result<(Option<MetadataValue<Ascii>>, u64)> {
        if let Some(fixed) = self.source.as_fixed() {
            return Ok((header(fixed)?, 0));
        }
        let now = Instant::now();
        let (turn, until) = {
            let mut state = self.shared.lock();
            let fresh = state.asked.is_some_and(|asked| now.saturating_duration_since(asked) < KEEP);
            let held = state.token.is_some();
            // Who comes while the source is asked goes on with the last one.
            if fresh || held && state.reading {
                return Ok(state.current());
            }
            let left = until.saturating_duration_since(now).min(SOURCE_TIMEOUT);
            // With a token at hand, a slow source must not cost the call.
            (Turn::take(&self.shared, &mut state), now + if held { left / 2 } else { left })
        };
        self.wait(turn, until).await;
        let state = self.shared.lock();
        match &state.failure {
            Some(error) if state.token.is_none() => Err(error.clone()),
            _ => Ok(state.current()),
        }
    }

    /// Asks the source because a server refused the token of generation `used`. Whether there is another one now.
    pub(crate) async fn refresh(&self, used: u64, until: Instant) -> bool {
        if !self.can_change() {
            return false;
        }
        let now = Instant::now();
        let turn = {
            let mut state = self.shared.lock();
            if state.generation != used {
                return true;
            }
            if !state.reading {
                if state.refreshed.is_some_and(|at| now.saturating_duration_since(at) < REFRESH_PAUSE) {
                    return false;
                }
                state.refreshed = Some(now);
            }
            Turn::take(&self.shared, &mut state)
        };
        self.wait(turn, until.min(now + SOURCE_TIMEOUT)).await;
        self.shared.lock().generation != used
    }

    /// Waits for the read that is under way, and begins it, off the async workers, where that is this caller's part. A
    /// read that takes longer goes on; what it brings is used by those who come later.
    async fn wait(&self, turn: Turn, until: Instant) {
        let started = Instant::now();
        let Turn { mut done, begin } = turn;
        let over = async {
            if let Some(reading) = begin {
                let source = self.source.clone();
                let read = move || reading.finish(source.read().and_then(|token| header(&token)));
                // Polled at once, by which it is begun.
                self.scope.blocking(read).await;
            } else {
                let _ = done.changed().await;
            }
        };
        if tokio::time::timeout_at(until, over).await.is_err() {
            let why = format!("the token source gave nothing within {:?}", started.elapsed());
            self.shared.lock().fail(Error::new(ErrorKind::Plugin, why));
        }
    }
}

// === impl Shared, State, Turn, Reading ===

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn finish(&self, outcome: Result<Option<MetadataValue<Ascii>>>) {
        let mut state = self.lock();
        state.reading = false;
        match outcome {
            Ok(token) => state.succeed(token),
            Err(error) => state.fail(error),
        }
        self.done.send_modify(|count| *count += 1);
    }
}

impl State {
    fn current(&self) -> (Option<MetadataValue<Ascii>>, u64) {
        (self.token.clone(), self.generation)
    }

    fn succeed(&mut self, token: Option<MetadataValue<Ascii>>) {
        if self.generation == 0 || token != self.token {
            self.generation += 1;
        }
        self.token = token;
        self.asked = Some(Instant::now());
        self.failure = None;
    }

    /// An error only where there is no last good token.
    fn fail(&mut self, error: Error) {
        if self.token.is_some() {
            self.asked = Some(Instant::now());
            if self.failure.is_none() {
                tracing::warn!(%error, "the token that was used last stays in use");
            }
        }
        self.failure = Some(error);
    }
}

impl Turn {
    fn take(shared: &Arc<Shared>, state: &mut State) -> Self {
        let begins = !std::mem::replace(&mut state.reading, true);
        Self { done: shared.done.subscribe(), begin: begins.then(|| Reading(Some(Arc::clone(shared)))) }
    }
}

impl Reading {
    fn finish(mut self, outcome: Result<Option<MetadataValue<Ascii>>>) {
        if let Some(shared) = self.0.take() {
            shared.finish(outcome);
        }
    }
}

impl Drop for Reading {
    fn drop(&mut self) {
        if let Some(shared) = self.0.take() {
            shared.finish(Err(Error::new(ErrorKind::Closed, "the runtime that the context was built on is gone")));
        }
    }
}

impl fmt::Debug for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("State").field("has_token", &self.token.is_some()).finish_non_exhaustive()
    }
}

/// Marked as sensitive, so that neither tonic nor HTTP/2's compression tables keep it in the open.
fn header(token: &str) -> Result<Option<MetadataValue<Ascii>>> {
    let token = token.trim();
    if token.is_empty() {
        return Ok(None);
    }
    let mut value = MetadataValue::try_from(token)
        .map_err(|_| Error::new(ErrorKind::InvalidConfig, "the token has characters that no HTTP header can carry"))?;
    value.set_sensitive(true);
    Ok(Some(value))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicUsize;
    use tokio::runtime::Handle;

    fn auth(source: TokenSource) -> Auth {
        Auth::new(source, TaskScope::new(Handle::current()))
    }

    async fn sent(auth: &Auth, operation: Operation) -> MetadataMap {
        let mut metadata = MetadataMap::new();
        auth.stamp(&mut metadata, operation, soon()).await.unwrap();
        metadata
    }

    fn soon() -> Instant {
        Instant::now() + SOURCE_TIMEOUT * 2
    }

    async fn token(auth: &Auth) -> Result<Option<MetadataValue<Ascii>>> {
        auth.token(soon()).await.map(|(token, _)| token)
    }

    async fn refreshed(auth: &Auth) -> bool {
        let used = auth.shared.lock().generation;
        auth.refresh(used, soon()).await
    }

    #[tokio::test]
    async fn a_request_carries_the_token_as_a_secret_and_an_id_of_its_own() {
        let auth = auth(TokenSource::fixed(" s3cret\n"));
        let (first, second) = (sent(&auth, Operation::Heartbeat).await, sent(&auth, Operation::Discover).await);
        let token = first.get("x-polaris-token").unwrap();
        assert!(token == "s3cret" && token.is_sensitive());
        assert!(first.get("request-id").unwrap().to_str().unwrap().starts_with('3'));
        assert!(second.get("request-id").unwrap().to_str().unwrap().starts_with('4'));
        assert_ne!(first.get("request-id"), second.get("request-id"));
        assert!(!format!("{auth:?} {first:?}").contains("s3cret"));
    }

    #[tokio::test]
    async fn a_request_that_is_only_numbered_has_no_token() {
        let auth = auth(TokenSource::fixed("s3cret"));
        let mut metadata = MetadataMap::new();
        let id = auth.number(&mut metadata, Operation::Limiter);
        assert!(metadata.get("x-polaris-token").is_none() && id.starts_with('6'));
        assert_eq!(metadata.get("request-id").unwrap().to_str().unwrap(), &*id);
    }

    #[tokio::test]
    async fn no_token_is_sent_where_there_is_none() {
        assert!(sent(&auth(TokenSource::default()), Operation::Register).await.get("x-polaris-token").is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn a_file_is_read_again_within_a_minute_and_at_once_when_refused() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "one").unwrap();
        let auth = auth(TokenSource::file(file.path()));
        assert_eq!(token(&auth).await.unwrap().unwrap(), "one");
        std::fs::write(file.path(), "two").unwrap();
        assert_eq!(token(&auth).await.unwrap().unwrap(), "one");
        tokio::time::advance(Duration::from_secs(60)).await;
        assert_eq!(token(&auth).await.unwrap().unwrap(), "two");
        std::fs::write(file.path(), "three").unwrap();
        assert!(refreshed(&auth).await);
        assert_eq!(token(&auth).await.unwrap().unwrap(), "three");
        assert!(!refreshed(&auth).await, "not more than once a second");
        file.close().unwrap();
        tokio::time::advance(Duration::from_secs(60)).await;
        assert_eq!(token(&auth).await.unwrap().unwrap(), "three", "the last good one stays");
    }

    #[tokio::test(start_paused = true)]
    async fn a_source_that_panics_keeps_the_last_good_token() {
        let calls = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&calls);
        let auth = auth(TokenSource::from_fn(move || {
            assert!(counted.fetch_add(1, Ordering::Relaxed) == 1, "planned");
            "good".to_owned()
        }));
        assert_eq!(token(&auth).await.unwrap_err().kind(), ErrorKind::Plugin);
        assert_eq!(token(&auth).await.unwrap().unwrap(), "good");
        tokio::time::advance(Duration::from_secs(60)).await;
        assert_eq!(token(&auth).await.unwrap().unwrap(), "good");
        assert_eq!(calls.load(Ordering::Relaxed), 3);
    }

    #[tokio::test]
    async fn a_token_that_no_header_can_carry_is_refused_without_being_shown() {
        let error = token(&auth(TokenSource::fixed("tok\u{7}en"))).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidConfig);
        assert!(!error.to_string().contains("tok\u{7}"), "{error}");
    }

    #[tokio::test]
    async fn a_missing_token_file_is_named() {
        let error = token(&auth(TokenSource::file("/no/token"))).await.unwrap_err();
        assert!(error.to_string().contains("/no/token"), "{error}");
    }

    #[tokio::test(start_paused = true)]
    async fn who_was_refused_with_an_older_token_is_told_of_the_newer_one_without_another_read() {
        let reads = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&reads);
        let auth = auth(TokenSource::from_fn(move || format!("token {}", counted.fetch_add(1, Ordering::Relaxed))));
        let first = auth.stamp(&mut MetadataMap::new(), Operation::Discover, soon()).await.unwrap();
        assert!(auth.refresh(first.generation, soon()).await);
        assert!(auth.refresh(first.generation, soon()).await, "the token has changed since it was sent");
        assert_eq!(reads.load(Ordering::Relaxed), 2);
        let second = auth.stamp(&mut MetadataMap::new(), Operation::Discover, soon()).await.unwrap();
        assert_ne!(first.generation, second.generation);
        assert!(!auth.refresh(second.generation, soon()).await, "not more than once a second");
    }

    #[tokio::test]
    async fn a_source_that_hangs_is_read_once_and_its_late_token_is_used() {
        let reads = Arc::new(AtomicUsize::new(0));
        let (counted, (release, held)) = (Arc::clone(&reads), std::sync::mpsc::channel::<()>());
        let held = Mutex::new(held);
        let auth = auth(TokenSource::from_fn(move || {
            counted.fetch_add(1, Ordering::Relaxed);
            held.lock().unwrap().recv().unwrap();
            "late".to_owned()
        }));
        for _ in 0..5 {
            let error = auth.token(Instant::now() + Duration::from_millis(5)).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Plugin, "{error}");
            assert!(!auth.refresh(0, Instant::now() + Duration::from_millis(5)).await);
        }
        assert_eq!(reads.load(Ordering::Relaxed), 1);
        release.send(()).unwrap();
        assert_eq!(token(&auth).await.unwrap().unwrap(), "late");
        assert_eq!(reads.load(Ordering::Relaxed), 1);
    }

    #[tokio::test]
    async fn refusals_that_come_together_share_one_read_and_its_outcome() {
        let reads = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&reads);
        let auth = auth(TokenSource::from_fn(move || {
            let count = counted.fetch_add(1, Ordering::Relaxed);
            #[allow(clippy::disallowed_methods, reason = "a source that takes its time, on a thread of its own")]
            std::thread::sleep(Duration::from_millis(20));
            format!("token {count}")
        }));
        let used = auth.stamp(&mut MetadataMap::new(), Operation::Register, soon()).await.unwrap().generation;
        let (first, second) = tokio::join!(auth.refresh(used, soon()), auth.refresh(used, soon()));
        assert!(first && second);
        assert_eq!(reads.load(Ordering::Relaxed), 2);
    }
}
