//! Filters of users: asked once for each combination of the values that they say they depend on.

use std::borrow::Cow;

use crate::error::{Error, ErrorKind, Result};
use crate::model::subset::Subset;
use crate::routing::memo::write_text;
use crate::routing::router::{Dependence, RouteFilter, RouteRequest, Routed};
use crate::routing::surroundings::Surroundings;
use crate::routing::switch::{Choice, Resolved, Switch};
use crate::util::panic::caught;

/// A filter, with what it depends on.
#[derive(Debug)]
pub(super) struct FilterSwitch<F> {
    filter: F,
    depends_on: Vec<Dependence>,
}

impl<F: RouteFilter> FilterSwitch<F> {
    pub(super) fn new(filter: F) -> Self {
        let depends_on = filter.depends_on();
        Self { filter, depends_on }
    }

    fn value<'r>(dependence: &Dependence, request: &RouteRequest<'r>) -> Option<Cow<'r, str>> {
        match dependence {
            Dependence::Label(kind, key) => request.label(*kind, key),
            Dependence::Metadata(key) => request.metadata(key).map(Cow::Borrowed),
        }
    }
}

impl<F: RouteFilter> Switch for FilterSwitch<F> {
    fn choose(&self, _: &RouteRequest<'_>, _: Option<u32>) -> Result<Choice> {
        Ok(Choice::Late(0))
    }

    fn write_key(&self, _: u32, request: &RouteRequest<'_>, part: &mut dyn FnMut(&[u8])) {
        for dependence in &self.depends_on {
            write_text(Self::value(dependence, request).as_deref(), part);
        }
    }

    fn resolve(&self, _: u32, request: &RouteRequest<'_>, given: &Subset, _: &Surroundings) -> Result<Resolved> {
        let values: Vec<_> = self.depends_on.iter().map(|dependence| Self::value(dependence, request)).collect();
        let values: Vec<Option<&str>> = values.iter().map(Option::as_deref).collect();
        let note = || {
            let named = self.depends_on.iter().zip(values.iter().copied());
            let said = |(on, value): (&Dependence, Option<&str>)| match value {
                Some(value) => format!("{on} is {value:?}"),
                None => format!("{on} is absent"),
            };
            named.map(said).collect::<Vec<_>>().join(", ")
        };
        let filtered = caught(|| given.filter(|instance| self.filter.keep(instance, &values)));
        let panicked = |said| Error::new(ErrorKind::Plugin, format!("a filter panicked: {said}"));
        let kept = filtered.map_err(panicked)?;
        kept.map(|kept| Resolved::To(Routed::alike(kept).because(note()))).ok_or_else(|| {
            let error = Error::new(ErrorKind::RouteMismatch, format!("a filter keeps no instance where {}", note()));
            error.with_service(given.snapshot().key().text())
        })
    }
}
