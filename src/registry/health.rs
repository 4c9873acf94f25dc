//! What is wrong, for the state of the context.

use tokio::time::Instant;

use crate::error::{Error, ErrorKind};
use crate::model::key::ServiceEventKey;
use crate::registry::cache::Cache;
use crate::registry::entry::Entry;
use crate::registry::store::Store;
use crate::registry::view::{Origin, Standing};
use crate::transport::discover::LinkState;

/// The link, and every key that is not as it should be, at one moment.
#[derive(Debug, Clone)]
pub(crate) struct RegistryHealth {
    pub(crate) link: LinkState,
    /// Since when the link is up, or lost; a try to connect again changes neither.
    pub(crate) link_since: Instant,
    /// Why the link was lost, until it is up again.
    pub(crate) lost: Option<Error>,
    /// In the order of their keys.
    pub(crate) troubles: Vec<KeyTrouble>,
    /// Why the disk cache is out of work and since when, until a file was written again.
    pub(crate) cache: Option<(Error, Instant)>,
}

/// One key that is not as it should be.
#[derive(Debug, Clone)]
pub(crate) struct KeyTrouble {
    pub(crate) key: ServiceEventKey,
    pub(crate) kind: TroubleKind,
    pub(crate) since: Instant,
    pub(crate) error: Error,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TroubleKind {
    /// No answer yet.
    Loading,
    /// The last answer was a failure.
    Failed,
    /// An answer is held back until it is confirmed; the last good one is served.
    Doubted,
    /// Served from disk, and not confirmed yet.
    Unconfirmed,
    /// Some of its items could not be understood and are left out.
    Skipped,
}

impl Store {
    pub(super) fn health(&self) -> RegistryHealth {
        let link = self.shared.link.view();
        let mut troubles = Vec::new();
        self.entries.for_each(|entry| troubles.extend(entry.ails()));
        troubles.sort_by(|a, b| a.key.cmp(&b.key));
        RegistryHealth {
            link: link.state.clone(),
            link_since: link.since,
            lost: link.lost.clone(),
            troubles,
            cache: self.cache.as_ref().and_then(Cache::error),
        }
    }
}

impl Entry {
    fn ails(&self) -> Option<KeyTrouble> {
        let view = self.view.load();
        let trouble = |kind, since, error: Error| Some(KeyTrouble { key: self.key().clone(), kind, since, error });
        let not_ready =
            |what: &'static str| Error::new(ErrorKind::NotReady, what).with_service(self.key().service.text());
        match (&view.trouble, &view.standing) {
            (Some(known), _) => {
                let kind = if known.doubted { TroubleKind::Doubted } else { TroubleKind::Failed };
                trouble(kind, known.since, known.error.clone())
            }
            (None, Standing::Loading) => trouble(TroubleKind::Loading, self.created(), not_ready("no answer yet")),
            _ if matches!(view.origin, Origin::Disk(_)) => {
                let error = not_ready("served from the disk cache, not confirmed yet");
                trouble(TroubleKind::Unconfirmed, self.created(), error)
            }
            _ if !view.skipped.is_empty() => {
                let error = Error::new(ErrorKind::InvalidRule, view.skipped.join("; "));
                trouble(TroubleKind::Skipped, self.created(), error.with_service(self.key().service.text()))
            }
            _ => None,
        }
    }
}
