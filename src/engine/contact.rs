//! Whether a control plane was reached at all, outside of discovery: by a client report or a registration.

use std::sync::Arc;

use tokio::sync::watch;
use tokio::time::Instant;

use crate::error::Error;

/// What is known of contact so far. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Contact(Arc<watch::Sender<Known>>);

/// The news of contact.
#[derive(Debug, Clone, Default)]
pub(crate) enum Known {
    /// Nothing was tried yet, or nothing has come of it.
    #[default]
    Nothing,
    /// A server answered at least once.
    Reached,
    /// Nothing but failures so far; the last one.
    Failing { error: Error, since: Instant },
}

impl Contact {
    pub(crate) fn new() -> Self {
        Self(Arc::new(watch::Sender::default()))
    }

    pub(crate) fn reached(&self) {
        self.0.send_if_modified(|known| {
            let news = !matches!(known, Known::Reached);
            *known = Known::Reached;
            news
        });
    }

    /// Once reached, single failures are the business of those who see them.
    pub(crate) fn failed(&self, error: &Error) {
        self.0.send_if_modified(|known| match known {
            Known::Nothing => {
                *known = Known::Failing { error: error.clone(), since: Instant::now() };
                true
            }
            Known::Failing { error: last, .. } => {
                *last = error.clone();
                false
            }
            Known::Reached => false,
        });
    }

    pub(crate) fn known(&self) -> Known {
        self.0.borrow().clone()
    }

    pub(crate) fn watch(&self) -> watch::Receiver<Known> {
        self.0.subscribe()
    }
}
