//! Values that rules name.

use std::collections::BTreeMap;
use std::fmt;

/// Values that rules name: configured ones, else those of the process's environment.
#[derive(Clone)]
pub(crate) struct Variables {
    configured: BTreeMap<String, String>,
    environment: fn(&str) -> Option<String>,
}

impl Variables {
    pub(crate) fn new(configured: BTreeMap<String, String>, environment: fn(&str) -> Option<String>) -> Self {
        Self { configured, environment }
    }

    pub(crate) fn get(&self, name: &str) -> Option<String> {
        self.configured.get(name).cloned().or_else(|| (self.environment)(name))
    }
}

impl Default for Variables {
    fn default() -> Self {
        Self::new(BTreeMap::new(), |_| None)
    }
}

impl fmt::Debug for Variables {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Names only: whoever configures a variable need not think of logs.
        f.debug_tuple("Variables").field(&self.configured.keys()).finish()
    }
}
