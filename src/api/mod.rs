//! What users call. Each type is a thin handle: it checks and converts what it is given, and the engine does the rest.
//!
//! Handles are cheap to clone and keep their context alive. Whatever may wait has a deadline.

pub(crate) mod consumer;
pub(crate) mod handle;
pub(crate) mod limit;
pub(crate) mod provider;
pub(crate) mod router;
#[cfg(test)]
mod tests;
pub(crate) mod watch;

use std::sync::Arc;

use crate::api::consumer::ConsumerApi;
use crate::api::limit::LimitApi;
use crate::api::provider::ProviderApi;
use crate::api::router::RouterApi;
use crate::context::SdkContext;

impl SdkContext {
    /// Finds services and picks instances.
    #[must_use]
    pub fn consumer(&self) -> ConsumerApi {
        let inner = self.inner();
        inner.start();
        ConsumerApi::new(inner.engine().clone(), Arc::clone(inner) as _)
    }

    /// Runs routers and balancers on given instances, and explains what the configured chain does.
    #[must_use]
    pub fn router(&self) -> RouterApi {
        let inner = self.inner();
        inner.start();
        RouterApi::new(inner.engine().clone(), Arc::clone(inner) as _)
    }

    /// Decides which of the calls to a service of this process may be made.
    #[must_use]
    pub fn limiter(&self) -> LimitApi {
        let inner = self.inner();
        inner.start();
        LimitApi::new(inner.quotas().clone(), Arc::clone(inner) as _)
    }

    /// Registers instances of this program.
    #[must_use]
    pub fn provider(&self) -> ProviderApi {
        ProviderApi::new(self.clone())
    }
}
