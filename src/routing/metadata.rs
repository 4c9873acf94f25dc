//! Routing by the metadata that a request wants: instances that have all of its pairs.
//!
//! If none has, the fail-over decides: that of the request, else of the service, else of the configuration. A request that
//! wants nothing passes through. What a request wants is any of endlessly many sets, so nothing is compiled ahead: the
//! first request for a set finds its instances, and the next ones find that.

use std::sync::Arc;

use crate::config::PluginOptions;
use crate::error::{Error, ErrorKind, Result};
use crate::model::metadata::Metadata;
use crate::model::request::asks::{Asks, MetadataFailover};
use crate::model::request::pairs::Pairs;
use crate::model::subset::Subset;
use crate::routing::memo::write_text;
use crate::routing::router::{RouteRequest, Routed, ServiceRouter};
use crate::routing::surroundings::Surroundings;
use crate::routing::switch::{Choice, Resolved, Switch};

/// By which a service says what requests for its metadata fail over to.
const FAILOVER_KEY: &str = "internal-metadata-failover-type";

const FAILOVERS: &[(&str, MetadataFailover)] = &[
    ("none", MetadataFailover::None),
    ("all", MetadataFailover::All),
    ("others", MetadataFailover::NotKey),
    ("notKey", MetadataFailover::NotKey),
];

/// The router `metadataRouter`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ByMetadata {
    failover: MetadataFailover,
}

/// Finds what a request wants.
#[derive(Debug)]
struct Wanted {
    failover: MetadataFailover,
}

impl ByMetadata {
    /// Option `metadataFailOverType`: `none` (the default), `all`, or `others` (also `notKey`).
    ///
    /// # Errors
    /// `InvalidConfig` for anything else.
    pub(crate) fn from_options(options: &PluginOptions) -> Result<Self> {
        let failover = options.one_of("metadataFailOverType", FAILOVERS)?;
        Ok(Self { failover: failover.unwrap_or(MetadataFailover::None) })
    }
}

impl ServiceRouter for ByMetadata {
    fn compile(&self, subset: &Subset, _: &Surroundings) -> Result<Routed> {
        let said = subset.snapshot().metadata().get(FAILOVER_KEY).and_then(failover_of);
        let switch = Arc::new(Wanted { failover: said.unwrap_or(self.failover) });
        Ok(Routed::aside(Ok(subset.clone()), Asks::METADATA, switch, Vec::new()))
    }
}

impl Wanted {
    fn failover(&self, request: &RouteRequest<'_>) -> MetadataFailover {
        request.pick.asks.metadata_failover().unwrap_or(self.failover)
    }
}

impl Switch for Wanted {
    fn choose(&self, _: &RouteRequest<'_>, _: Option<u32>) -> Result<Choice> {
        Ok(Choice::Late(0))
    }

    fn write_key(&self, _: u32, request: &RouteRequest<'_>, part: &mut dyn FnMut(&[u8])) {
        part(&[self.failover(request) as u8]);
        for (key, value) in request.pick.metadata.iter() {
            write_text(Some(key), part);
            write_text(Some(value), part);
        }
    }

    fn resolve(&self, _: u32, request: &RouteRequest<'_>, given: &Subset, _: &Surroundings) -> Result<Resolved> {
        let wanted = request.pick.metadata;
        let has_all = |metadata: &Metadata| wanted.iter().all(|(key, value)| metadata.get(key) == Some(value));
        if let Some(found) = given.filter_by_metadata(has_all) {
            return Ok(Resolved::To(Routed::alike(found).because(format!("the request wants {wanted:?}"))));
        }
        let none = format!("no instance has {wanted:?}");
        match self.failover(request) {
            MetadataFailover::None => Err(refused(given, none)),
            MetadataFailover::All => Ok(Resolved::To(Routed::alike(given.clone()).because(none + ": all stay"))),
            MetadataFailover::NotKey => {
                let others = given.filter_by_metadata(|metadata| has_no_key(metadata, wanted));
                let others = others.ok_or_else(|| refused(given, format!("{none}, and all have one of its keys")))?;
                Ok(Resolved::To(Routed::alike(others).because(none + ": those without any of its keys stay")))
            }
        }
    }
}

fn has_no_key(metadata: &Metadata, wanted: Pairs<'_>) -> bool {
    wanted.iter().all(|(key, _)| metadata.get(key).is_none())
}

fn refused(given: &Subset, why: String) -> Error {
    Error::new(ErrorKind::RouteMismatch, why).with_service(given.snapshot().key().text())
}

fn failover_of(name: &str) -> Option<MetadataFailover> {
    FAILOVERS.iter().find(|(word, _)| *word == name).map(|(_, failover)| *failover)
}
