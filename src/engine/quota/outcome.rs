//! What becomes of a call that asks for a quota.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::Guard;
use tokio::time::Instant;

use crate::engine::quota::service::InForce;
use crate::engine::quota::slot::Slot;
use crate::error::Error;
use crate::limit::limiter::Taken;
use crate::model::key::ServiceKey;
use crate::util::task::TaskScope;

/// What the rules decided about one call.
#[derive(Debug)]
#[must_use = "a permit is to be held while the call is served"]
#[non_exhaustive]
pub enum Decision {
    /// The call may be made now.
    Granted(Permit),
    /// The call may be made later: a rule paces calls.
    Wait(Ticket),
    /// The call may not be made.
    Limited(Limited),
}

/// The right to make one call. To be held while it is served: a rule that limits calls at the same time counts the call
/// until the permit is dropped. Nothing else depends on it.
#[must_use = "a call is under way while its permit is held"]
pub struct Permit {
    /// The slot that the call has entered: almost always none.
    entered: Option<Arc<Slot>>,
    /// What hardly any permit has: apart, so that permits are small.
    rare: Option<Box<Rare>>,
}

#[derive(Default)]
struct Rare {
    also_entered: Vec<Arc<Slot>>,
    unknown: Option<Error>,
}

/// The right to make one call at a later moment. Dropped before, it gives its place and all else that the call was counted
/// for back.
#[must_use = "dropped, it gives its place back"]
pub struct Ticket(Option<Box<Place>>);

/// What a call that waits has taken.
pub(crate) struct Place {
    pub(crate) at: Instant,
    pub(crate) taken: Vec<(Arc<Slot>, Taken)>,
    pub(crate) scope: TaskScope,
}

/// A call that may not be made, and why.
///
/// Costs nothing to make; whoever wants to keep it for long should keep what it says.
#[must_use]
pub struct Limited {
    pub(crate) rules: Guard<Option<Arc<InForce>>>,
    pub(crate) at: usize,
    pub(crate) retry_after: Option<Duration>,
}

/// Why there is no quota.
#[derive(Debug)]
#[non_exhaustive]
pub enum QuotaError {
    /// The rules refuse the call.
    Limited(Limited),
    /// The quota is not known: see [`config::OnUnknown`](crate::config::OnUnknown). Also that the request names no service
    /// that could be, or that the context is shut down.
    Failed(Error),
}

// === impl Permit ===

impl Permit {
    /// Of a call that is under way nowhere.
    #[inline]
    pub(crate) const fn new() -> Self {
        Self { entered: None, rare: None }
    }

    /// Of a call that was let pass although its quota is not known.
    pub(crate) fn unknown_because(error: Error) -> Self {
        Self { entered: None, rare: Some(Box::new(Rare { unknown: Some(error), ..Rare::default() })) }
    }

    pub(crate) fn enter(&mut self, slot: Arc<Slot>) {
        match &self.entered {
            None => self.entered = Some(slot),
            Some(_) => self.rare.get_or_insert_default().also_entered.push(slot),
        }
    }

    /// The call is not made after all: it never was under way.
    pub(crate) fn revoke(mut self) {
        self.take().for_each(|slot| slot.limiter.give_back(Taken::Entered));
    }

    /// Where the call has entered: whoever is told says when it is over.
    pub(crate) fn hand_over(mut self) -> impl Iterator<Item = Arc<Slot>> {
        self.take()
    }

    fn take(&mut self) -> impl Iterator<Item = Arc<Slot>> + use<> {
        let also = self.rare.as_mut().map(|rare| std::mem::take(&mut rare.also_entered));
        self.entered.take().into_iter().chain(also.unwrap_or_default())
    }

    /// Why it is not known whether the rules allow the call: it was admitted unseen. None where they were asked.
    #[must_use]
    pub fn unknown(&self) -> Option<&Error> {
        self.rare.as_ref()?.unknown.as_ref()
    }
}

impl Drop for Permit {
    #[inline]
    fn drop(&mut self) {
        if self.entered.is_some() {
            self.take().for_each(|slot| slot.limiter.leave());
        }
    }
}

impl fmt::Debug for Permit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Permit").field("unknown", &self.unknown()).finish_non_exhaustive()
    }
}

// === impl Ticket ===

impl Ticket {
    pub(crate) fn new(place: Place) -> Self {
        Self(Some(Box::new(place)))
    }

    /// How long the call has to wait from now on; zero when its moment has come.
    #[must_use]
    pub fn wait(&self) -> Duration {
        self.0.as_ref().map(|place| place.at.saturating_duration_since(Instant::now())).unwrap_or_default()
    }

    /// Waits for the moment.
    ///
    /// # Cancel safety
    ///
    /// Dropped before, the place is given back, and so is all else that the call was counted for.
    pub async fn ready(self) -> Permit {
        if let Some(place) = &self.0 {
            place.scope.inside(tokio::time::sleep_until(place.at)).await;
        }
        self.into_permit()
    }

    /// Takes the permit at once, for callers who wait by their own means: they promise to make the call no sooner than
    /// after [`wait`](Self::wait).
    pub fn into_permit(mut self) -> Permit {
        let mut permit = Permit::new();
        let taken = self.0.take().map(|place| place.taken).unwrap_or_default();
        for (slot, _) in taken.into_iter().filter(|(_, taken)| *taken == Taken::Entered) {
            permit.enter(slot);
        }
        permit
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if let Some(place) = self.0.take() {
            place.taken.iter().for_each(|(slot, taken)| slot.limiter.give_back(*taken));
        }
    }
}

impl fmt::Debug for Ticket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ticket").field("wait", &self.wait()).finish_non_exhaustive()
    }
}

// === impl Limited ===

impl Limited {
    /// The name of the rule that refuses the call, the first one if there are several.
    #[must_use]
    pub fn rule(&self) -> &str {
        self.read(|rules| rules.rule(self.at).map(|rule| &*rule.name)).unwrap_or_default()
    }

    /// The id of that rule.
    #[must_use]
    pub fn rule_id(&self) -> &str {
        self.read(|rules| rules.rule(self.at).map(|rule| &*rule.id)).unwrap_or_default()
    }

    /// What the rule says that the caller is to be answered, if it says something.
    #[must_use]
    pub fn custom_response(&self) -> Option<&str> {
        self.read(|rules| rules.rule(self.at).and_then(|rule| rule.response.as_deref()))
    }

    /// How long the rule refuses all such calls, unless others give back what they have taken; zero where it depends on
    /// other calls alone, as that they come to an end. None where it refuses them for good.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        self.retry_after
    }

    /// The service.
    #[must_use]
    pub fn service(&self) -> Option<&ServiceKey> {
        self.read(|rules| Some(&rules.service))
    }

    fn read<'a, T: ?Sized>(&'a self, read: impl FnOnce(&'a InForce) -> Option<&'a T>) -> Option<&'a T> {
        self.rules.as_deref().and_then(read)
    }
}

impl fmt::Display for Limited {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "limited by rule {:?}", self.rule())?;
        if let Some(service) = self.service() {
            write!(f, " of {service}")?;
        }
        match self.retry_after {
            Some(Duration::ZERO) => Ok(()),
            Some(after) => write!(f, "; again in {after:?} at the earliest"),
            None => f.write_str(", which lets nothing pass"),
        }
    }
}

impl fmt::Debug for Limited {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Limited")
            .field("rule", &self.rule())
            .field("retry_after", &self.retry_after)
            .finish_non_exhaustive()
    }
}

// === impl QuotaError ===

impl QuotaError {
    /// How long to wait before it is worth to ask again, where that is known.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Limited(limited) => limited.retry_after(),
            Self::Failed(error) => error.retry_after(),
        }
    }
}

impl fmt::Display for QuotaError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Limited(limited) => limited.fmt(f),
            Self::Failed(error) => write!(f, "the quota is not known: {error}"),
        }
    }
}

impl std::error::Error for QuotaError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Limited(_) => None,
            // The error itself is told by `Display`.
            Self::Failed(error) => std::error::Error::source(error),
        }
    }
}
