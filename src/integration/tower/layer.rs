//! The layer, and how it is set up.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use http::Response;
use http::request::Parts;
use tower_layer::Layer;

use crate::api::limit::{LimitApi, LimitHandle};
use crate::engine::quota::outcome::Limited;
use crate::integration::tower::labels::ExtractLabels;
use crate::integration::tower::limits::Limits;
use crate::integration::tower::service::RateLimit;
use crate::model::key::ServiceKey;

/// Limits the requests that a server serves, by the rules of one service: a [`tower` layer](Layer) for axum's
/// `Router::layer`, tonic's `Server::builder().layer(…)` and every other stack of HTTP services. Made by
/// [`LimitApi::layer`].
///
/// # What rules see
/// The method of a rule is compared with the path of the URI, which of a gRPC call is `/package.Service/Method`. Labels are
/// those of the request: `METHOD` (the verb), `HEADER`, `QUERY`, and cookies, for which rules ask as `CUSTOM`. More can be
/// said of it by [`labels`](Self::labels): the caller's address, a tenant, a route with its parameters left open. Below
/// axum's `nest` the path lacks the prefix that was matched.
///
/// # What is answered
/// * **Granted:** the request goes on as it came, and the answer comes back as it was. A rule that limits calls at the same
///   time counts it until the body of the answer has ended or was dropped, or until the service inside fails or is dropped.
/// * **Paced:** the request waits for its turn. A caller who hangs up gives the place back.
/// * **Limited:** status 429; `retry-after` in seconds where a time is known; the rule's custom response as text, or else one
///   that names the rule. A gRPC call gets `RESOURCE_EXHAUSTED` with that text (its first 4 KiB) as its message, and
///   `grpc-retry-pushback-ms`. Both carry the rule's name, percent-encoded where it is not plain ASCII, as
///   `x-polaris-rate-limit-rule`. [`on_limited`](Self::on_limited) answers something else.
/// * **Not known:** the first requests wait for the rules, for `global.api.timeout` at most; once that was in vain, later
///   ones do not wait. Then they are admitted, or refused with status 503 or `UNAVAILABLE`, as
///   `provider.rateLimit.onUnknown` says. They are refused like this also when the context is shut down, or the service has a
///   name that cannot be. The text says what kind of reason there is, and no address.
///
/// Cheap to clone; clones and all services that they make count together. It keeps its context alive.
///
/// ```
/// use http::{Request, Response, StatusCode};
/// use polarismesh::RuleKind;
/// use polarismesh::testing::Server;
/// use tower::{ServiceBuilder, ServiceExt, service_fn};
///
/// # #[tokio::main(flavor = "current_thread", start_paused = true)]
/// # async fn main() -> polarismesh::Result<()> {
/// let server = Server::in_memory();
/// let rule = r#"{"name": "one-a-second", "service": "shop", "namespace": "default", "type": "LOCAL",
///     "method": {"type": "EXACT", "value": "/pay"}, "amounts": [{"maxAmount": 1, "validDuration": "1s"}]}"#;
/// server.rule(RuleKind::RateLimit, rule)?;
/// let context = server.context()?;
///
/// let pay = service_fn(async |_: Request<String>| Ok::<_, std::io::Error>(Response::new(String::from("paid"))));
/// let limited = ServiceBuilder::new().layer(context.limiter().layer(("default", "shop"))).service(pay);
/// for expected in [StatusCode::OK, StatusCode::TOO_MANY_REQUESTS] {
///     let request = Request::post("/pay").body(String::new()).unwrap();
///     assert_eq!(limited.clone().oneshot(request).await.unwrap().status(), expected);
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
#[must_use]
pub struct RateLimitLayer(Arc<Limits>);

impl LimitApi {
    /// A tower layer for servers that limits their requests by the rules of a service, which are loaded from now on.
    pub fn layer(&self, key: impl Into<ServiceKey>) -> RateLimitLayer {
        self.service(key).layer()
    }
}

impl LimitHandle {
    /// A tower layer for servers that limits their requests by the rules of this service.
    pub fn layer(&self) -> RateLimitLayer {
        RateLimitLayer(Arc::new(Limits { handle: self.clone(), labels: None, on_limited: None }))
    }
}

impl RateLimitLayer {
    /// Says more of requests than rules can read off them; what is said goes before what the request says itself. See
    /// [`ExtractLabels`].
    ///
    /// ```
    /// use axum::extract::{ConnectInfo, MatchedPath};
    /// use http::request::Parts;
    /// use polarismesh::{LabelSet, RateLimitLayer};
    /// use std::net::SocketAddr;
    ///
    /// /// By the caller's address, and by axum's route: `/users/{id}`, not `/users/42`.
    /// fn by_caller_and_route(layer: RateLimitLayer) -> RateLimitLayer {
    ///     layer.labels(|parts: &Parts| {
    ///         let mut labels = LabelSet::new();
    ///         if let Some(ConnectInfo(address)) = parts.extensions.get::<ConnectInfo<SocketAddr>>() {
    ///             labels = labels.caller_ip(address.ip());
    ///         }
    ///         if let Some(route) = parts.extensions.get::<MatchedPath>() {
    ///             labels = labels.path(route.as_str());
    ///         }
    ///         labels
    ///     })
    /// }
    /// ```
    pub fn labels(self, labels: impl ExtractLabels) -> Self {
        self.change(|limits| limits.labels = Some(Arc::new(labels)))
    }

    /// Answers requests that are limited in another way. The answer is sent as it is: nothing is added to it.
    ///
    /// It should be quick. A panic of it is the request's, as one of the service inside would be.
    ///
    /// ```
    /// use http::request::Parts;
    /// use http::{Response, StatusCode};
    /// use polarismesh::{Limited, RateLimitLayer};
    ///
    /// fn in_json(layer: RateLimitLayer) -> RateLimitLayer {
    ///     layer.on_limited(|limited: &Limited, _: &Parts| {
    ///         let mut answer = Response::new(format!(r#"{{"rule": "{}"}}"#, limited.rule().escape_default()));
    ///         *answer.status_mut() = StatusCode::TOO_MANY_REQUESTS;
    ///         answer
    ///     })
    /// }
    /// ```
    pub fn on_limited<F, B>(self, answer: F) -> Self
    where
        F: Fn(&Limited, &Parts) -> Response<B> + Send + Sync + 'static,
        B: Into<Bytes>,
    {
        self.change(|limits| limits.on_limited = Some(Arc::new(move |why, parts| answer(why, parts).map(Into::into))))
    }

    fn change(self, change: impl FnOnce(&mut Limits)) -> Self {
        let mut limits = Arc::unwrap_or_clone(self.0);
        change(&mut limits);
        Self(Arc::new(limits))
    }
}

impl<S> Layer<S> for RateLimitLayer {
    type Service = RateLimit<S>;

    fn layer(&self, inner: S) -> RateLimit<S> {
        RateLimit::new(inner, Arc::clone(&self.0))
    }
}

impl fmt::Debug for RateLimitLayer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RateLimitLayer").field("key", self.0.handle.key()).finish_non_exhaustive()
    }
}
