//! Nearby routing: instances in the client's own zone rather than far away, as long as they can serve.
//!
//! It starts at the narrowest level that is wanted and widens, level by level, until one has instances and few enough of
//! them are unhealthy. When none is healthy enough, the widest counts if anything in it can serve at all, and the
//! narrowest that has instances if nothing can: a failing health check must not spread all traffic over all regions.
//!
//! It is on for a service that asks for it, by a rule or by its metadata, once the client's location is known; and for a
//! request that asks for it. The shape is that of the official SDKs, the two ends of the widening are not: polaris-java wraps
//! back to the first level, and polaris-go takes the first that has anybody.

use std::sync::Arc;

use crate::config::PluginOptions;
use crate::error::{Error, ErrorKind, Result};
use crate::model::health::Breaker;
use crate::model::location::{Level, Location};
use crate::model::request::asks::Asks;
use crate::model::rule::nearby::NearbyRule;
use crate::model::subset::Subset;
use crate::routing::router::{RouteRequest, Routed, ServiceRouter};
use crate::routing::surroundings::Surroundings;
use crate::routing::switch::{Choice, Resolved, Switch};

/// By which a service asks for nearby routing.
const ENABLE_KEY: &str = "internal-enable-nearby";

const LEVELS: &[(&str, Level)] =
    &[("campus", Level::Campus), ("zone", Level::Zone), ("region", Level::Region), ("all", Level::All)];

/// The router `nearbyBasedRouter`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Nearby {
    first: Level,
    widest: Level,
    strict: bool,
    /// The share of unhealthy instances, in percent, from which a level is left for a wider one; none: never.
    degrade_at: Option<f64>,
}

/// For requests that ask for it.
#[derive(Debug)]
struct OnRequest(Nearby);

/// One level: who is there, and how many of them can serve.
struct Reach {
    level: Level,
    near: Subset,
    healthy: usize,
}

impl Nearby {
    /// Options `matchLevel` (default zone), `maxMatchLevel` (all), `strictNearby` (false),
    /// `enableDegradeByUnhealthyPercent` (true) and `unhealthyPercentToDegrade` (100).
    ///
    /// # Errors
    /// `InvalidConfig` for a level that is none, a percentage that is none, and a widest level below the first.
    pub(crate) fn from_options(options: &PluginOptions) -> Result<Self> {
        let first = options.one_of("matchLevel", LEVELS)?.unwrap_or(Level::Zone);
        let widest = options.one_of("maxMatchLevel", LEVELS)?.unwrap_or(Level::All);
        if widest < first {
            let problem = format!("{} is narrower than matchLevel, {}", widest.as_str(), first.as_str());
            return Err(options.invalid("maxMatchLevel", problem));
        }
        let percent = options.get::<f64>("unhealthyPercentToDegrade")?.unwrap_or(100.0);
        if !(percent > 0.0 && percent <= 100.0) {
            return Err(options.invalid("unhealthyPercentToDegrade", "expected a number above 0 and up to 100"));
        }
        let degrades = options.get::<bool>("enableDegradeByUnhealthyPercent")?.unwrap_or(true);
        Ok(Self {
            first,
            widest,
            strict: options.get::<bool>("strictNearby")?.unwrap_or(false),
            degrade_at: degrades.then_some(percent),
        })
    }

    /// As it is for a service with this rule: what the rule leaves open stays.
    fn with_rule(self, rule: Option<&NearbyRule>) -> Self {
        let Some(rule) = rule else { return self };
        let first = rule.first.unwrap_or(self.first);
        // A widest level below the first is no widening.
        let widest = rule.widest.unwrap_or(self.widest).max(first);
        Self { first, widest, strict: self.strict || rule.strict, ..self }
    }

    /// The near ones of `given`.
    fn near(self, given: &Subset, surroundings: &Surroundings) -> Result<Routed> {
        let settings = self.with_rule(surroundings.nearby.as_ref());
        if surroundings.location.is_empty() {
            if settings.strict {
                let why = "nearby routing is strict, and this client does not know its location: set global.location";
                return Err(refused(ErrorKind::LocationUnknown, given, why.to_owned()));
            }
            return Ok(Routed::alike(given.clone()).because("this client does not know its location"));
        }
        settings.widen(given, surroundings)
    }

    fn widen(self, given: &Subset, surroundings: &Surroundings) -> Result<Routed> {
        let client = &*surroundings.location;
        let levels = Level::ORDER.into_iter().filter(|level| (self.first..=self.widest).contains(level));
        let mut narrowest: Option<Reach> = None;
        let mut widest: Option<Reach> = None;
        // A level that the client does not know is skipped.
        for level in levels.filter(|level| !level.of(client).is_empty()) {
            let Some(near) = given.filter(|instance| is_near(level, client, instance.location())) else { continue };
            let reach = Reach { level, healthy: healthy(&near, surroundings), near };
            if self.degrade_at.is_none_or(|percent| reach.unhealthy_percent() < percent) {
                let note = reach.note(client);
                return Ok(Routed::alike(reach.near).because(note));
            }
            match &narrowest {
                None => narrowest = Some(reach),
                Some(_) => widest = Some(reach),
            }
        }
        let chosen = match (narrowest, widest) {
            (Some(_), Some(widest)) if widest.healthy > 0 => widest,
            (Some(narrowest), _) => narrowest,
            (None, _) => {
                let why =
                    format!("nobody is as near to {client} as {} to {}", self.first.as_str(), self.widest.as_str());
                return Err(refused(ErrorKind::RouteMismatch, given, why));
            }
        };
        let note = format!("{}; no level is healthy enough", chosen.note(client));
        Ok(Routed::alike(chosen.near).because(note))
    }
}

impl ServiceRouter for Nearby {
    fn compile(&self, subset: &Subset, surroundings: &Surroundings) -> Result<Routed> {
        let asked =
            subset.snapshot().metadata().get(ENABLE_KEY).is_some_and(|value| value.eq_ignore_ascii_case("true"));
        if asked || surroundings.nearby.is_some() {
            return self.near(subset, surroundings);
        }
        let switch = Arc::new(OnRequest(*self));
        let routed = Routed::aside(Ok(subset.clone()), Asks::NEARBY, switch, Vec::new());
        Ok(routed.because("the service does not ask for nearby routing"))
    }
}

impl Switch for OnRequest {
    fn choose(&self, _: &RouteRequest<'_>, _: Option<u32>) -> Result<Choice> {
        Ok(Choice::Late(0))
    }

    fn resolve(&self, _: u32, _: &RouteRequest<'_>, given: &Subset, surroundings: &Surroundings) -> Result<Resolved> {
        self.0.near(given, surroundings).map(Resolved::To)
    }
}

impl Reach {
    fn unhealthy_percent(&self) -> f64 {
        let all = self.near.len().get();
        #[allow(clippy::cast_precision_loss, reason = "counts of instances are far below 2^52")]
        let percent = (all - self.healthy) as f64 * 100.0 / all as f64;
        percent
    }

    fn note(&self, client: &Location) -> String {
        format!("the same {} as {client}: {} of {} healthy", self.level.as_str(), self.healthy, self.near.len())
    }
}

/// Whether both are at the same place at `level`. A wider level that both know must not differ: zones of two regions may
/// have one name.
fn is_near(level: Level, client: &Location, instance: &Location) -> bool {
    let same = |wider: Level| {
        let (ours, theirs) = (wider.of(client), wider.of(instance));
        ours == theirs || (wider != level && (ours.is_empty() || theirs.is_empty()))
    };
    Level::ORDER.into_iter().filter(|wider| *wider >= level).all(same)
}

/// How many can serve; a breaker that is half open is not trusted yet.
fn healthy(subset: &Subset, surroundings: &Surroundings) -> usize {
    let can = |(position, instance)| {
        let _: &crate::model::instance::Instance = instance;
        instance.is_healthy() && surroundings.health.breaker(position) == Breaker::Closed
    };
    subset.with_positions().filter(|at| can(*at)).count()
}

fn refused(kind: ErrorKind, given: &Subset, why: String) -> Error {
    Error::new(kind, why).with_service(given.snapshot().key().text())
}
