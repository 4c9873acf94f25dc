//! The error of every call: one word wide, `Clone`, with a kind to match on and a context to read.
//!
//! One failure may reach many waiters (a cold service is fetched once for all callers), so [`Error`] is a shared
//! pointer. `Display` prints kind and context and never the source: walk [`std::error::Error::source`] for that.

use std::borrow::Cow;
use std::error::Error as StdError;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// Result of this crate's calls.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What went wrong, with where and after what: kind, service, address, attempts, time, and the server's own code.
///
/// ```
/// use polarismesh::{ErrorKind, SdkContext};
///
/// let error = SdkContext::from_file("no/such/polaris.yaml").unwrap_err();
/// assert_eq!(error.kind(), ErrorKind::InvalidConfig);
/// assert!(error.to_string().contains("no/such/polaris.yaml"));
/// ```
#[derive(Clone)]
pub struct Error(Arc<Repr>);

#[derive(Clone, Default)]
struct Details {
    service: Option<Arc<str>>,
    address: Option<Arc<str>>,
    attempts: Option<u32>,
    elapsed: Option<Duration>,
    retry_after: Option<Duration>,
    request_id: Option<Arc<str>>,
    server_code: Option<ServerCode>,
}

#[derive(Clone)]
struct Repr {
    kind: ErrorKind,
    context: Cow<'static, str>,
    details: Details,
    source: Option<Arc<dyn StdError + Send + Sync>>,
}

/// The kinds of failure, and what a caller can do about each.
///
/// | kind | the same call again | another instance | mend the input |
/// |---|---|---|---|
/// | `InvalidArgument`, `InvalidConfig`, `InvalidRule` | no | no | yes |
/// | `Plugin` | no | no | yes: the plug-in |
/// | `NotReady`, `Timeout`, `Network`, `Server` | yes | – | no |
/// | `Closed` | no | no | no |
/// | `Unauthorized` | after the token is mended | no | yes |
/// | `Unsupported` | no | no | no: the server is too old |
/// | `ServiceNotFound`, `NoInstances` | later | no | if the name is wrong |
/// | `RouteMismatch` | later | no | yes: rules or request |
/// | `Exhausted` | no | no: all were tried | no |
/// | `CircuitOpen` | after `retry_after` | yes | no |
/// | `LocationUnknown` | no | no | yes: configure a location |
/// | `NotFound`, `Conflict` | no | no | yes |
/// | `Decrypt` | no | no | yes: keys |
/// | `CacheIo` | yes | – | if the directory is wrong |
/// | `Internal` | no | no | no: a defect of this crate |
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// An argument of the call is outside of what is allowed; the message names it and its bounds.
    InvalidArgument,
    /// The configuration cannot be used; the message lists every problem with its YAML path.
    InvalidConfig,
    /// A rule of the control plane cannot be understood; it is skipped, its neighbours stay in force.
    InvalidRule,
    /// A user's balancer, router or token source panicked or answered out of range.
    Plugin,
    /// The data is not loaded yet and this call does not wait; loading has been started.
    NotReady,
    /// The deadline of the call passed.
    Timeout,
    /// The context was shut down, or its runtime is gone.
    Closed,
    /// No connection, or it broke; other servers were tried where there are any.
    Network,
    /// The server refused the token (its codes 401xxx).
    Unauthorized,
    /// The server answered with an error code; see [`Error::server_code`].
    Server,
    /// The server does not know this request.
    Unsupported,
    /// The service does not exist on the control plane.
    ServiceNotFound,
    /// The service exists and has no instance that may be picked.
    NoInstances,
    /// Routing left no instance and its fail-over is `none`.
    RouteMismatch,
    /// Every instance that could be picked was excluded by the caller.
    Exhausted,
    /// A circuit breaker is open.
    CircuitOpen,
    /// Strict nearby routing was asked for and the client's own location is not known.
    LocationUnknown,
    /// The named thing does not exist on the control plane.
    NotFound,
    /// Somebody else changed the thing in the meantime.
    Conflict,
    /// Encrypted content could not be opened.
    Decrypt,
    /// The disk cache could not be read or written.
    CacheIo,
    /// A defect of this crate.
    Internal,
}

/// A code of the control plane, as it came: `200000` is success, `4xxxxx` blames the request, `5xxxxx` the server.
///
/// The set is open: newer servers send codes that this crate has no name for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ServerCode(u32);

// === impl ServerCode ===

impl ServerCode {
    pub(crate) const NO_CHANGE: Self = Self(200_001);
    pub(crate) const INVALID_DISCOVER_RESOURCE: Self = Self(400_004);
    pub(crate) const EXISTED_RESOURCE: Self = Self(400_201);
    pub(crate) const NOT_FOUND_RESOURCE: Self = Self(400_202);
    pub(crate) const SAME_INSTANCE_REQUEST: Self = Self(400_208);
    pub(crate) const NOT_FOUND_SERVICE: Self = Self(400_301);
    pub(crate) const NOT_FOUND_NAMESPACE: Self = Self(400_305);
    pub(crate) const CLIENT_API_NOT_OPEN: Self = Self(400_401);
    pub(crate) const HEALTH_CHECK_OFF: Self = Self(400_140);
    pub(crate) const HEARTBEAT_ON_DISABLED: Self = Self(400_141);

    /// Wraps a code as it came from the wire.
    #[must_use]
    pub const fn new(code: u32) -> Self {
        Self(code)
    }

    /// The number.
    #[must_use]
    pub const fn get(self) -> u32 {
        self.0
    }

    /// Whether the code says success (200xxx).
    #[must_use]
    pub const fn is_success(self) -> bool {
        self.0 / 1000 == 200
    }

    /// The service or its namespace does not exist.
    pub(crate) fn is_service_not_found(self) -> bool {
        matches!(self, Self::NOT_FOUND_RESOURCE | Self::NOT_FOUND_SERVICE | Self::NOT_FOUND_NAMESPACE)
    }

    /// The server checks no health, or not that of this instance, so that it wants no beats.
    pub(crate) fn is_heartbeat_unwanted(self) -> bool {
        matches!(self, Self::HEARTBEAT_ON_DISABLED | Self::HEALTH_CHECK_OFF)
    }

    /// The server asks to slow down.
    pub(crate) const fn is_throttled(self) -> bool {
        matches!(self.0, 403_003 | 429_001 | 429_002)
    }

    /// The server refused the token. The exact code tells nothing: servers answer 401001 for almost everything.
    pub(crate) const fn is_unauthorized(self) -> bool {
        self.0 / 1000 == 401
    }

    /// The server refuses for now: its cache is not filled yet, or another request for the same instance is under way.
    const fn is_momentary(self) -> bool {
        matches!(self, Self::CLIENT_API_NOT_OPEN | Self::SAME_INSTANCE_REQUEST)
    }

    /// The one table from a server's code to what it means for the caller: kind, and whether another try can help.
    fn classify(self) -> (ErrorKind, bool) {
        match self {
            _ if self.is_unauthorized() => (ErrorKind::Unauthorized, false),
            _ if self.is_throttled() => (ErrorKind::Server, true),
            Self::INVALID_DISCOVER_RESOURCE => (ErrorKind::Unsupported, false),
            Self::NOT_FOUND_SERVICE | Self::NOT_FOUND_NAMESPACE => (ErrorKind::ServiceNotFound, false),
            Self::NOT_FOUND_RESOURCE => (ErrorKind::NotFound, false),
            Self(409_000) => (ErrorKind::Conflict, false),
            Self(code) if code / 1000 == 400 && !self.is_momentary() => (ErrorKind::InvalidArgument, false),
            _ => (ErrorKind::Server, true),
        }
    }
}

impl fmt::Display for ServerCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

// === impl ErrorKind ===

impl ErrorKind {
    const fn describe(self) -> &'static str {
        match self {
            Self::InvalidArgument => "invalid argument",
            Self::InvalidConfig => "invalid configuration",
            Self::InvalidRule => "invalid rule",
            Self::Plugin => "plug-in failed",
            Self::NotReady => "not ready",
            Self::Timeout => "timed out",
            Self::Closed => "closed",
            Self::Network => "network failure",
            Self::Unauthorized => "unauthorized",
            Self::Server => "server error",
            Self::Unsupported => "not supported by the server",
            Self::ServiceNotFound => "service not found",
            Self::NoInstances => "no instances",
            Self::RouteMismatch => "no instance matches the route",
            Self::Exhausted => "all instances were tried",
            Self::CircuitOpen => "circuit breaker is open",
            Self::LocationUnknown => "location unknown",
            Self::NotFound => "not found",
            Self::Conflict => "conflict",
            Self::Decrypt => "decryption failed",
            Self::CacheIo => "disk cache failed",
            Self::Internal => "internal error",
        }
    }

    const fn is_retryable(self) -> bool {
        matches!(
            self,
            Self::NotReady | Self::Timeout | Self::Network | Self::Server | Self::CacheIo | Self::CircuitOpen
        )
    }
}

impl fmt::Display for ErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.describe())
    }
}

// === impl Error ===

impl Error {
    /// An error of a plug-in of yours: the refusal that a call gets.
    pub fn plugin(kind: ErrorKind, context: impl Into<Cow<'static, str>>) -> Self {
        Self::new(kind, context)
    }

    pub(crate) fn new(kind: ErrorKind, context: impl Into<Cow<'static, str>>) -> Self {
        Self(Arc::new(Repr { kind, context: context.into(), details: Details::default(), source: None }))
    }

    /// The error for an answer with `code`, by the one table of codes.
    pub(crate) fn from_code(code: ServerCode, context: impl Into<Cow<'static, str>>) -> Self {
        Self::new(code.classify().0, context).edit(|r| r.details.server_code = Some(code))
    }

    fn edit(mut self, change: impl FnOnce(&mut Repr)) -> Self {
        change(Arc::make_mut(&mut self.0));
        self
    }

    pub(crate) fn with_source(self, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        let source: Box<dyn StdError + Send + Sync> = source.into();
        self.edit(|r| r.source = Some(source.into()))
    }

    pub(crate) fn with_service(self, service: impl Into<Arc<str>>) -> Self {
        self.edit(|r| r.details.service = Some(service.into()))
    }

    pub(crate) fn with_address(self, address: impl Into<Arc<str>>) -> Self {
        self.edit(|r| r.details.address = Some(address.into()))
    }

    pub(crate) fn with_attempts(self, attempts: u32) -> Self {
        self.edit(|r| r.details.attempts = Some(attempts))
    }

    pub(crate) fn with_elapsed(self, elapsed: Duration) -> Self {
        self.edit(|r| r.details.elapsed = Some(elapsed))
    }

    pub(crate) fn with_retry_after(self, after: Duration) -> Self {
        self.edit(|r| r.details.retry_after = Some(after))
    }

    pub(crate) fn with_request_id(self, id: impl Into<Arc<str>>) -> Self {
        self.edit(|r| r.details.request_id = Some(id.into()))
    }

    /// What kind of failure this is.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// Whether the same call may succeed when it is made again, unchanged, a little later.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        match self.0.details.server_code {
            Some(code) => code.classify().1,
            // Without a code it was no answer to this request: a proxy's word, or an answer that cannot be read.
            None => self.0.kind.is_retryable(),
        }
    }

    /// The service that the call was about, as `namespace/service`.
    #[must_use]
    pub fn service(&self) -> Option<&str> {
        self.0.details.service.as_deref()
    }

    /// The server that was tried last.
    #[must_use]
    pub fn address(&self) -> Option<&str> {
        self.0.details.address.as_deref()
    }

    /// How many times it was tried.
    #[must_use]
    pub fn attempts(&self) -> Option<u32> {
        self.0.details.attempts
    }

    /// How long it was tried.
    #[must_use]
    pub fn elapsed(&self) -> Option<Duration> {
        self.0.details.elapsed
    }

    /// How long to wait before another try, where that is known.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        self.0.details.retry_after
    }

    /// The `request-id` that went to the server, to be found in its log.
    #[must_use]
    pub fn request_id(&self) -> Option<&str> {
        self.0.details.request_id.as_deref()
    }

    /// The server's own code, if it answered.
    #[must_use]
    pub fn server_code(&self) -> Option<ServerCode> {
        self.0.details.server_code
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Repr { kind, context, details, .. } = &*self.0;
        write!(f, "{kind}: {context}")?;
        let mut separator = " (";
        let mut item = |f: &mut fmt::Formatter<'_>, name: &str, value: &dyn fmt::Display| {
            let written = write!(f, "{separator}{name} {value}");
            separator = ", ";
            written
        };
        if let Some(code) = details.server_code {
            item(f, "code", &code)?;
        }
        if let Some(service) = &details.service {
            item(f, "service", service)?;
        }
        if let Some(address) = &details.address {
            item(f, "server", address)?;
        }
        if let Some(attempts) = details.attempts {
            item(f, "attempts", &attempts)?;
        }
        if let Some(elapsed) = details.elapsed {
            item(f, "after", &format_args!("{elapsed:.1?}"))?;
        }
        if let Some(id) = &details.request_id {
            item(f, "request-id", id)?;
        }
        if separator == ", " { f.write_str(")") } else { Ok(()) }
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut d = f.debug_struct("Error");
        d.field("kind", &self.0.kind).field("message", &format_args!("{self}"));
        if let Some(source) = &self.0.source {
            d.field("source", source);
        }
        d.finish()
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.0.source.as_deref().map(|source| source as &(dyn StdError + 'static))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_is_one_word_and_so_is_a_small_result() {
        assert_eq!(size_of::<Error>(), size_of::<usize>());
        assert_eq!(size_of::<Result<Arc<()>>>(), 2 * size_of::<usize>());
    }

    #[test]
    fn display_names_kind_context_and_details_but_never_the_source() {
        let error = Error::from_code(ServerCode::new(400_120), "register: the name has a forbidden character")
            .with_service("default/pay ments")
            .with_address("127.0.0.1:8091")
            .with_attempts(1)
            .with_source("inner");
        assert_eq!(
            error.to_string(),
            "invalid argument: register: the name has a forbidden character \
             (code 400120, service default/pay ments, server 127.0.0.1:8091, attempts 1)"
        );
        assert_eq!(error.source().map(ToString::to_string).as_deref(), Some("inner"));
    }

    #[test]
    fn a_server_error_without_a_code_is_worth_another_try() {
        assert!(Error::new(ErrorKind::Server, "x").is_retryable());
        assert!(!Error::new(ErrorKind::Unsupported, "x").is_retryable());
    }

    #[test]
    fn throttling_and_server_faults_are_worth_another_try_and_refusals_are_not() {
        for (code, kind, retry) in [
            (400_202, ErrorKind::NotFound, false),
            (400_301, ErrorKind::ServiceNotFound, false),
            (400_208, ErrorKind::Server, true),
            (401_001, ErrorKind::Unauthorized, false),
            (403_003, ErrorKind::Server, true),
            (409_000, ErrorKind::Conflict, false),
            (429_002, ErrorKind::Server, true),
            (500_001, ErrorKind::Server, true),
            (0, ErrorKind::Server, true),
            (777_777, ErrorKind::Server, true),
        ] {
            let error = Error::from_code(ServerCode::new(code), "x");
            assert_eq!((error.kind(), error.is_retryable()), (kind, retry), "{code}");
        }
    }
}
