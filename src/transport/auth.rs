//! What every request carries: the access token, a request id, who asks.

use std::borrow::Cow;
use std::fmt;
use std::panic::AssertUnwindSafe;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;
use tonic::metadata::{Ascii, MetadataMap, MetadataValue};

use crate::error::{Error, ErrorKind, Result};
use crate::util::fs;
use crate::util::task::TaskScope;

/// How long a token from a file or a function is used before it is asked for again.
const KEEP: Duration = Duration::from_secs(45);
/// The shortest time between two refreshes that refusals ask for.
const REFRESH_PAUSE: Duration = Duration::from_secs(1);
/// How long a token source may take.
const SOURCE_TIMEOUT: Duration = Duration::from_secs(2);

/// Where the access token of the control plane comes from.
///
/// A file and a function are asked again within a minute, and at once when a server refuses the token, so a token can
/// rotate without a restart. `Debug` never shows a token.
///
/// ```
/// use polarismesh::TokenSource;
///
/// let fixed = TokenSource::fixed("nu/0WRA4EqSR1FagrjRj0fZwPXuGlMpX+zCuWu4uMqy8xr1vRjisSbA25aAC3mtU8MeeRsKhQiDAynUR09I=");
/// assert_eq!(format!("{fixed:?}"), "TokenSource(fixed)");
/// let file = TokenSource::file("/var/run/secrets/polaris/token");
/// let function = TokenSource::from_fn(|| std::env::var("TOKEN").unwrap_or_default());
/// # let _ = (file, function);
/// ```
#[derive(Clone)]
pub struct TokenSource(Kind);

#[derive(Clone)]
enum Kind {
    Fixed(Arc<str>),
    File(Arc<Path>),
    Function(Arc<dyn Fn() -> String + Send + Sync>),
}

/// The RPCs, as they are told apart in request ids and messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Operation {
    Register,
    Deregister,
    Heartbeat,
    Discover,
    ReportClient,
}

/// Gives every request its metadata. Shared by a context and its twins.
#[derive(Debug)]
pub(crate) struct Auth {
    source: TokenSource,
    scope: TaskScope,
    state: Mutex<State>,
    next_id: AtomicU64,
}

#[derive(Default)]
struct State {
    token: Option<MetadataValue<Ascii>>,
    asked: Option<Instant>,
    refreshed: Option<Instant>,
    troubled: bool,
}

// === impl TokenSource ===

impl TokenSource {
    /// This token; an empty one is none.
    pub fn fixed(token: impl Into<String>) -> Self {
        let token: String = token.into();
        Self(Kind::Fixed(token.trim().into()))
    }

    /// The content of a file, without the white space around it.
    pub fn file(path: impl Into<PathBuf>) -> Self {
        let path: PathBuf = path.into();
        Self(Kind::File(path.into()))
    }

    /// What a function returns. It may block for up to 2 s; when it takes longer or panics, the token that was used
    /// last stays in use, and without one the call fails with [`ErrorKind::Plugin`].
    pub fn from_fn(token: impl Fn() -> String + Send + Sync + 'static) -> Self {
        Self(Kind::Function(Arc::new(token)))
    }

    /// Asks the source. Blocks.
    fn read(&self) -> Result<Cow<'_, str>> {
        match &self.0 {
            Kind::Fixed(token) => Ok(Cow::Borrowed(token)),
            Kind::File(path) => fs::read_text(path).map(Cow::Owned).map_err(|error| {
                let why = format!("the token file {} cannot be read: {error}", path.display());
                Error::new(ErrorKind::InvalidConfig, why)
            }),
            Kind::Function(function) => std::panic::catch_unwind(AssertUnwindSafe(|| function()))
                .map(Cow::Owned)
                .map_err(|_| Error::new(ErrorKind::Plugin, "the token source panicked")),
        }
    }
}

impl Default for TokenSource {
    /// No token.
    fn default() -> Self {
        Self::fixed("")
    }
}

impl From<&str> for TokenSource {
    fn from(token: &str) -> Self {
        Self::fixed(token)
    }
}

impl From<String> for TokenSource {
    fn from(token: String) -> Self {
        Self::fixed(token)
    }
}

impl fmt::Debug for TokenSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Kind::Fixed(token) if token.is_empty() => f.write_str("TokenSource(none)"),
            Kind::Fixed(_) => f.write_str("TokenSource(fixed)"),
            Kind::File(path) => write!(f, "TokenSource(file {})", path.display()),
            Kind::Function(_) => f.write_str("TokenSource(function)"),
        }
    }
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
        }
    }

    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Register => "register",
            Self::Deregister => "deregister",
            Self::Heartbeat => "heartbeat",
            Self::Discover => "discover",
            Self::ReportClient => "report client",
        }
    }
}

// === impl Auth ===

impl Auth {
    pub(crate) fn new(source: TokenSource, scope: TaskScope) -> Self {
        // Below 2^53, which tools that read logs as JSON can hold; apart from other clients by the random start.
        let first = rand::random::<u64>() >> 16;
        Self { source, scope, state: Mutex::default(), next_id: AtomicU64::new(first) }
    }

    /// Writes token and request id; returns the id.
    pub(crate) async fn stamp(&self, metadata: &mut MetadataMap, operation: Operation) -> Result<Arc<str>> {
        if let Some(token) = self.token().await? {
            metadata.insert("x-polaris-token", token);
        }
        let id = format!("{}{}", operation.digit(), self.next_id.fetch_add(1, Ordering::Relaxed));
        if let Ok(value) = MetadataValue::try_from(id.as_str()) {
            metadata.insert("request-id", value);
        }
        Ok(id.into())
    }

    /// The token, asked for again when it is old.
    pub(crate) async fn token(&self) -> Result<Option<MetadataValue<Ascii>>> {
        let now = Instant::now();
        {
            let mut state = self.lock();
            if state.asked.is_some_and(|asked| now.saturating_duration_since(asked) < KEEP) {
                return Ok(state.token.clone());
            }
            if state.token.is_some() {
                // Who comes meanwhile goes on with the last one.
                state.asked = Some(now);
            }
        }
        self.ask().await?;
        Ok(self.lock().token.clone())
    }

    /// Asks the source because a server refused the token. Whether there is another one now.
    pub(crate) async fn refresh(&self) -> bool {
        let now = Instant::now();
        let before = {
            let mut state = self.lock();
            if matches!(self.source.0, Kind::Fixed(_))
                || state.refreshed.is_some_and(|at| now.saturating_duration_since(at) < REFRESH_PAUSE)
            {
                return false;
            }
            state.refreshed = Some(now);
            state.token.clone()
        };
        self.ask().await.is_ok() && self.lock().token != before
    }

    /// Asks the source off the async workers; an error only where there is no last good token.
    async fn ask(&self) -> Result<()> {
        let outcome = match &self.source.0 {
            Kind::Fixed(token) => header(token),
            _ => self.ask_elsewhere().await,
        };
        let mut state = self.lock();
        let was_troubled = state.troubled;
        state.troubled = outcome.is_err();
        match outcome {
            Ok(token) => {
                state.token = token;
                state.asked = Some(Instant::now());
                Ok(())
            }
            Err(error) if state.token.is_some() => {
                state.asked = Some(Instant::now());
                if !was_troubled {
                    tracing::warn!(%error, "the token that was used last stays in use");
                }
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    async fn ask_elsewhere(&self) -> Result<Option<MetadataValue<Ascii>>> {
        let source = self.source.clone();
        let read = self.scope.blocking(move || source.read().map(Cow::into_owned));
        match tokio::time::timeout(SOURCE_TIMEOUT, read).await {
            Ok(Some(token)) => header(&token?),
            Ok(None) => Err(Error::new(ErrorKind::Closed, "the runtime that the context was built on is gone")),
            Err(_) => {
                let why = format!("the token source gave nothing within {SOURCE_TIMEOUT:?}");
                Err(Error::new(ErrorKind::Plugin, why))
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
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
        auth.stamp(&mut metadata, operation).await.unwrap();
        metadata
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
    async fn no_token_is_sent_where_there_is_none() {
        assert!(sent(&auth(TokenSource::default()), Operation::Register).await.get("x-polaris-token").is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn a_file_is_read_again_within_a_minute_and_at_once_when_refused() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "one").unwrap();
        let auth = auth(TokenSource::file(file.path()));
        assert_eq!(auth.token().await.unwrap().unwrap(), "one");
        std::fs::write(file.path(), "two").unwrap();
        assert_eq!(auth.token().await.unwrap().unwrap(), "one");
        tokio::time::advance(Duration::from_secs(60)).await;
        assert_eq!(auth.token().await.unwrap().unwrap(), "two");
        std::fs::write(file.path(), "three").unwrap();
        assert!(auth.refresh().await);
        assert_eq!(auth.token().await.unwrap().unwrap(), "three");
        assert!(!auth.refresh().await, "not more than once a second");
        file.close().unwrap();
        tokio::time::advance(Duration::from_secs(60)).await;
        assert_eq!(auth.token().await.unwrap().unwrap(), "three", "the last good one stays");
    }

    #[tokio::test(start_paused = true)]
    async fn a_source_that_panics_keeps_the_last_good_token() {
        let calls = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&calls);
        let auth = auth(TokenSource::from_fn(move || {
            assert!(counted.fetch_add(1, Ordering::Relaxed) == 1, "planned");
            "good".to_owned()
        }));
        assert_eq!(auth.token().await.unwrap_err().kind(), ErrorKind::Plugin);
        assert_eq!(auth.token().await.unwrap().unwrap(), "good");
        tokio::time::advance(Duration::from_secs(60)).await;
        assert_eq!(auth.token().await.unwrap().unwrap(), "good");
        assert_eq!(calls.load(Ordering::Relaxed), 3);
    }

    #[tokio::test]
    async fn a_token_that_no_header_can_carry_is_refused_without_being_shown() {
        let error = auth(TokenSource::fixed("tok\u{7}en")).token().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidConfig);
        assert!(!error.to_string().contains("tok\u{7}"), "{error}");
    }

    #[tokio::test]
    async fn a_missing_token_file_is_named() {
        let error = auth(TokenSource::file("/no/token")).token().await.unwrap_err();
        assert!(error.to_string().contains("/no/token"), "{error}");
    }
}
