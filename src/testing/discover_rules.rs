//! What is answered on the discover stream: rules.

use std::sync::Arc;

use prost::Message;

use super::answer::{NO_CHANGE, OK, echo};
use super::behaviour::Release;
use super::discover::answered;
use super::routing::deliver;
use super::rules::Rule;
use super::sha1;
use super::store::State;
use crate::model::key::{ResourceKind, ServiceKey};
use crate::pb::v1;
use crate::pb::v1::discover_request::DiscoverRequestType as Kind;

impl State {
    /// The rules of this kind for a service. A service nobody knows has those that name every service.
    pub(super) fn discover_rules(
        &self,
        kind: Kind,
        request: &v1::DiscoverRequest,
        key: &ServiceKey,
    ) -> v1::DiscoverResponse {
        let known = self.resolve(key);
        if known.is_none() && self.behaviour.release < Release::V1_17 && matches!(kind, Kind::Routing | Kind::RateLimit)
        {
            return echo(400_301, request);
        }
        let real = known.map_or_else(|| key.clone(), |(real, _)| real);
        if kind == Kind::Routing {
            return self.discover_routing(request, key, &real);
        }
        let Some(resource) = resource(kind) else { return echo(OK, request) };
        let mut rules: Vec<_> = self.rules_of(resource).filter(|rule| rule.is_for(&real)).collect();
        if rules.is_empty() {
            let mut nothing = echo(OK, request);
            nothing.service.iter_mut().for_each(|service| service.revision = None);
            return nothing;
        }
        rules.sort_by(|a, b| a.revision.cmp(&b.revision));
        let revision = sha1::hex(rules.iter().map(|rule| &rule.revision));
        let asked = request.service.as_ref().and_then(|service| service.revision.as_ref());
        if asked == Some(&revision) {
            return echo(NO_CHANGE, request);
        }
        let service = v1::Service { revision: Some(revision.clone()), ..named(key) };
        let mut response = answered(kind, Some(service));
        fill(&mut response, kind, &rules, key, revision);
        response
    }

    /// Routing alone has a payload and a revision when there are no rules.
    fn discover_routing(
        &self,
        request: &v1::DiscoverRequest,
        key: &ServiceKey,
        real: &ServiceKey,
    ) -> v1::DiscoverResponse {
        let (release, form) = (self.behaviour.release, self.behaviour.routing_form());
        let mut rules: Vec<_> = self.rules_of(ResourceKind::Routing).collect();
        rules.sort_by(|a, b| a.revision.cmp(&b.revision));
        let rules: Vec<_> = rules.into_iter().filter_map(|rule| rule.routing.as_ref()).collect();
        let routing = deliver(&rules, real, release, form);
        let asked = request.service.as_ref().and_then(|service| service.revision.as_ref());
        if asked == routing.revision.as_ref() {
            return echo(NO_CHANGE, request);
        }
        let service = v1::Service { revision: routing.revision.clone(), ..named(key) };
        v1::DiscoverResponse {
            routing: Some(routing),
            alias_for: (release > Release::V1_14).then(|| named(real)),
            ..answered(Kind::Routing, Some(service))
        }
    }

    fn rules_of(&self, kind: ResourceKind) -> impl Iterator<Item = &Arc<Rule>> {
        let all = self.rules.seen().range((kind, String::new())..);
        all.take_while(move |((of, _), _)| *of == kind).map(|(_, rule)| rule)
    }
}

fn named(key: &ServiceKey) -> v1::Service {
    v1::Service {
        namespace: Some(key.namespace().to_owned()),
        name: Some(key.service().to_owned()),
        ..Default::default()
    }
}

/// What the stream calls a kind.
pub(super) fn resource(kind: Kind) -> Option<ResourceKind> {
    Some(match kind {
        Kind::Routing => ResourceKind::Routing,
        Kind::RateLimit => ResourceKind::RateLimit,
        Kind::CircuitBreaker => ResourceKind::CircuitBreaker,
        Kind::FaultDetector => ResourceKind::FaultDetector,
        Kind::Lane => ResourceKind::Lane,
        Kind::CustomRouteRule => ResourceKind::CustomRoute,
        Kind::NearbyRouteRule => ResourceKind::NearbyRoute,
        Kind::Lossless => ResourceKind::Lossless,
        Kind::BlockAllowRule => ResourceKind::BlockAllow,
        Kind::TrafficMirroring => ResourceKind::TrafficMirroring,
        Kind::FaultInjection => ResourceKind::FaultInjection,
        Kind::Unknown | Kind::Instance | Kind::Cluster | Kind::Services | Kind::Namespaces => return None,
    })
}

/// The rules as messages: they were checked when they were set.
fn decoded<M: Message + Default>(rules: &[&Arc<Rule>]) -> Vec<M> {
    rules.iter().filter_map(|rule| M::decode(rule.bytes.as_slice()).ok()).collect()
}

fn fill(response: &mut v1::DiscoverResponse, kind: Kind, rules: &[&Arc<Rule>], asked: &ServiceKey, revision: String) {
    let text = |text: &str| Some(text.to_owned());
    match kind {
        Kind::RateLimit => {
            response.rate_limit = Some(v1::RateLimit { rules: decoded(rules), revision: Some(revision) });
        }
        Kind::CircuitBreaker => {
            response.circuit_breaker = Some(v1::CircuitBreaker {
                service: text(asked.service()),
                service_namespace: text(asked.namespace()),
                revision: Some(revision),
                rules: decoded(rules),
                ..Default::default()
            });
        }
        Kind::FaultDetector => response.fault_detector = Some(v1::FaultDetector { rules: decoded(rules), revision }),
        Kind::Lane => response.lanes = decoded(rules),
        Kind::CustomRouteRule => response.custom_route_rules = decoded(rules),
        Kind::NearbyRouteRule => response.nearby_route_rules = decoded(rules),
        Kind::Lossless => response.lossless = decoded(rules),
        Kind::BlockAllowRule => response.block_allow_list_rule = decoded(rules),
        Kind::TrafficMirroring => response.traffic_mirroring = decoded(rules),
        Kind::FaultInjection => response.fault_injection = decoded(rules),
        Kind::Unknown | Kind::Instance | Kind::Routing | Kind::Cluster | Kind::Services | Kind::Namespaces => {}
    }
}
