//! Changes of single keys, by the path and the spelling that the file has for them.

use serde_json::{Value, json};

use super::assemble::assemble;
use super::loader::{invalid, parse};
use super::validate::{Problem, Problems};
use super::{Config, Secret, keys, tree};
use crate::error::Error;

impl Config {
    /// Changes one key by its path in YAML, or a whole section. A value in brackets or braces is read as YAML
    /// (`[a, b]`), an empty one brings the default back, and everything else is taken literally.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidConfig`](crate::ErrorKind::InvalidConfig) if no SDK knows the key, or if the value does not fit it; nothing is changed then.
    ///
    /// ```
    /// use polarismesh::config::Config;
    /// use std::time::Duration;
    ///
    /// let mut config = Config::default();
    /// config.set("consumer.localCache.serviceRefreshInterval", "1s")?;
    /// assert_eq!(config.consumer.local_cache.service_refresh_interval, Duration::from_secs(1));
    /// assert!(config.set("consumer.localCache.serviceRefreshIntervall", "1s").is_err());
    /// # Ok::<(), polarismesh::Error>(())
    /// ```
    pub fn set(&mut self, path: &str, value: impl Into<String>) -> Result<(), Error> {
        *self = set(self, path, value.into()).map_err(|problems| invalid(problems.to_string()))?;
        Ok(())
    }

    /// The configuration as a tree, with its secrets in clear: not to leave this module.
    fn to_tree(&self) -> Result<Value, Problem> {
        let mut tree =
            serde_json::to_value(self).map_err(|_| Problem::new("configuration", "holds a path that is not UTF-8"))?;
        let token = self.global.server_connector.token.as_ref().map(Secret::expose);
        tree::merge(&mut tree, tree::at_path("global.serverConnector.token", json!(token)));
        let plugins = json!({
            "serviceRouter": { "plugin": self.consumer.service_router.plugin.exposed() },
            "loadbalancer": { "plugin": self.consumer.loadbalancer.plugin.exposed() },
        });
        tree::merge(&mut tree, tree::at_path("consumer", plugins));
        Ok(tree)
    }
}

fn set(config: &Config, path: &str, value: String) -> Result<Config, Problems> {
    let is_flow = value.trim_start().starts_with(['[', '{']);
    let value = if is_flow {
        parse(&value).map_err(|problem| Problem::new(path, problem.to_string()))?
    } else {
        Value::String(value)
    };
    let mut change = tree::at_path(path, value);
    let mut problems = Problems::default();
    problems.extend(keys::unknown(&change));
    for (path, reason) in keys::without_effect(&change) {
        tracing::warn!("{path}: has no effect: {reason}");
    }
    for notice in tree::canonicalise(&mut change, &mut problems) {
        tracing::warn!("{notice}");
    }
    problems.into_result()?;
    let mut tree = config.to_tree()?;
    tree::merge(&mut tree, change);
    tree::prune(&mut tree);
    assemble(&tree)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn setting_one_key_keeps_the_secrets_of_the_others() {
        let text = "global: { serverConnector: { token: t } }
consumer: { loadbalancer: { type: mine, plugin: { mine: { password: p } } } }";
        let mut config = Config::from_yaml(text).unwrap();
        config.set("global.api.timeout", "2s").unwrap();
        assert_eq!(config.global.server_connector.token.as_ref().unwrap().expose(), "t");
        let password: Option<String> = config.consumer.loadbalancer.options("mine").get("password").unwrap();
        assert_eq!(password.as_deref(), Some("p"));
    }
}
