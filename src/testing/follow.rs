//! Takes what a data file says, once or for as long as the server lives.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::data::{Data, stamp};
use super::server::Server;
use crate::error::Result;

/// How often a followed file is looked at.
const LOOK: Duration = Duration::from_millis(500);

impl Server {
    /// Sets what the file says, once.
    ///
    /// The file is YAML with any of the sections `namespaces`, `services`, `aliases`, `instances`, `routings`,
    /// `nearbyroutings`, `ratelimits`, `circuitbreakers` and `faultdetectors`, each a list in the console's own field names,
    /// and `locations`, a map from host to region, zone and campus. A rule of `routings` may be in the old form, see
    /// [`Server::rule`]; those of `nearbyroutings` are told when [`Server::newer_kinds`] is on. Reads the file on this
    /// thread.
    ///
    /// # Errors
    ///
    /// `InvalidConfig` if the file cannot be read or used: all problems, each with its place. Nothing is set then.
    pub fn load(&self, path: impl AsRef<Path>) -> Result<()> {
        let dialect = self.node.store.read(|state, _| state.behaviour.dialect());
        let data = Data::read(path.as_ref(), dialect)?;
        self.node.store.with(|state, now| state.apply(&Data::default(), &data, now));
        Ok(())
    }

    /// Sets what the file says, now and whenever it changes, as long as the server lives. A file that cannot be used any
    /// more is logged, and what it said last stays in force. Reads the file on this thread the first time.
    ///
    /// # Errors
    ///
    /// As [`Server::load`], for the first time.
    pub fn follow(&self, path: impl Into<PathBuf>) -> Result<()> {
        let path = path.into();
        let mut seen = stamp(&path);
        let store = Arc::clone(&self.node.store);
        let mut data = Data::read(&path, store.read(|state, _| state.behaviour.dialect()))?;
        store.with(|state, now| state.apply(&Data::default(), &data, now));
        let scope = self.node.scope().clone();
        let blocking = scope.clone();
        scope.spawn("data file", async move {
            loop {
                tokio::time::sleep(LOOK).await;
                let (file, before) = (path.clone(), seen);
                let dialect = store.read(|state, _| state.behaviour.dialect());
                let changed = blocking.blocking(move || {
                    let now = stamp(&file);
                    (now != before).then(|| (now, Data::read(&file, dialect)))
                });
                let Some((now, read)) = changed.await.flatten() else { continue };
                seen = now;
                match read {
                    Ok(next) => {
                        store.with(|state, now| state.apply(&data, &next, now));
                        tracing::info!(file = %path.display(), "the data file was read again");
                        data = next;
                    }
                    Err(error) => tracing::error!(%error, "the data file is not used; what it said before stays"),
                }
            }
        });
        Ok(())
    }
}
