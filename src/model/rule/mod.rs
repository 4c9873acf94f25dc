//! Rules as their readers need them: checked once when they change, apart from instances, which change far more often.
//!
//! What the control plane delivers is untrusted text. A rule is compiled as a whole or left out as a whole, with a message
//! that names it and its fault; so nothing that is evaluated later can fail, and one bad rule takes none of its
//! neighbours with it.

pub(crate) mod limit;
pub(crate) mod nearby;
pub(crate) mod route;

use std::sync::Arc;

use self::limit::LimitRules;
use self::nearby::NearbyRules;
use self::route::RouteRules;

/// The rules of a set in the form that their reader needs; kinds that nobody reads yet have only their text.
#[derive(Debug, Clone, Default)]
pub(crate) enum Compiled {
    #[default]
    Unread,
    Route(Arc<RouteRules>),
    Nearby(Arc<NearbyRules>),
    Limit(Arc<LimitRules>),
}
