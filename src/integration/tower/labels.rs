//! What rules are told of a request: what the user says of it, and then the request itself.

use std::borrow::Cow;

use http::request::Parts;

use crate::engine::quota::outcome::Decision;
use crate::error::Result;
use crate::model::label::{LabelKind, Labels};
use crate::model::request::quota::Quota;

/// Says of a request what rules cannot read off it: the tenant, the caller's address, the route that it took. For
/// [`RateLimitLayer::labels`](crate::RateLimitLayer::labels).
///
/// What the labels do not say is answered by the request itself. Their [`LabelKind::Path`] is the method that rules see;
/// without one it is the path of the URI.
///
/// Implemented for functions that collect labels they own:
///
/// ```
/// use http::request::Parts;
/// use polarismesh::{LabelSet, RateLimitLayer};
///
/// fn by_tenant(layer: RateLimitLayer) -> RateLimitLayer {
///     layer.labels(|parts: &Parts| {
///         let tenant = parts.headers.get("x-tenant").and_then(|tenant| tenant.to_str().ok());
///         LabelSet::new().custom("tenant", tenant.unwrap_or("nobody"))
///     })
/// }
/// ```
///
/// Where nothing is to be copied, implement it for labels that borrow from the request, and are asked only for what the
/// rules name:
///
/// ```
/// use http::request::Parts;
/// use polarismesh::{ExtractLabels, LabelKind, Labels};
/// use std::borrow::Cow;
///
/// struct ByTenant;
///
/// struct Tenant<'a>(&'a Parts);
///
/// impl ExtractLabels for ByTenant {
///     type Labels<'a> = Tenant<'a>;
///
///     fn labels<'a>(&'a self, parts: &'a Parts) -> Tenant<'a> {
///         Tenant(parts)
///     }
/// }
///
/// impl Labels for Tenant<'_> {
///     fn get(&self, kind: LabelKind, key: &str) -> Option<Cow<'_, str>> {
///         match (kind, key) {
///             (LabelKind::Custom, "tenant") => self.0.headers.get("x-tenant")?.to_str().ok().map(Cow::Borrowed),
///             _ => None,
///         }
///     }
/// }
/// ```
///
/// It is called for every request, and once more for one that had to wait for the rules: it should be quick. A panic of it
/// is the request's, as one of the service inside would be.
pub trait ExtractLabels: Send + Sync + 'static {
    /// What is said of one request.
    type Labels<'a>: Labels;

    /// What to say of a request, of which there is all but the body.
    fn labels<'a>(&'a self, parts: &'a Parts) -> Self::Labels<'a>;
}

impl<F, L> ExtractLabels for F
where
    F: Fn(&Parts) -> L + Send + Sync + 'static,
    L: Labels + 'static,
{
    type Labels<'a> = L;

    fn labels<'a>(&'a self, parts: &'a Parts) -> L {
        self(parts)
    }
}

/// The same without the type of its labels, so that layers have one type whatever is said.
pub(super) trait Describe: Send + Sync {
    /// What is decided about a request of which this is said.
    fn describe(&self, parts: &Parts, decide: &mut Decide<'_>) -> Result<Decision>;
}

/// Decides about what is asked for.
pub(super) type Decide<'a> = dyn FnMut(&Quota<'_>) -> Result<Decision> + 'a;

impl<E: ExtractLabels> Describe for E {
    fn describe(&self, parts: &Parts, decide: &mut Decide<'_>) -> Result<Decision> {
        let said = self.labels(parts);
        let method = said.get(LabelKind::Path, "").unwrap_or_else(|| Cow::Borrowed(parts.uri.path()));
        decide(&Quota::new().method(&method).labels(&Said { first: &said, then: parts }))
    }
}

/// Labels, and those of the request for what they do not say.
struct Said<'a> {
    first: &'a dyn Labels,
    then: &'a Parts,
}

impl Labels for Said<'_> {
    fn get(&self, kind: LabelKind, key: &str) -> Option<Cow<'_, str>> {
        self.first.get(kind, key).or_else(|| self.then.get(kind, key))
    }
}
