//! Weights that change while instances stay: whoever knows better than the weight that was registered.

use std::fmt::Debug;
use std::time::Duration;

use crate::model::health::Load;
use crate::model::instance::Instance;

/// Adjusts the weights of instances, for all policies that go by weight.
///
/// It is asked about every instance of every service in use when the instances change and once an
/// [`interval`](Self::interval); what it answers is compiled in, so a pick costs the same with and without it. A panic
/// leaves the weights that were registered.
///
/// ```
/// use polarismesh::{Instance, Load, WeightAdjuster};
///
/// /// Halves the weight of instances that take more than 100 ms.
/// #[derive(Debug)]
/// struct Slower;
///
/// impl WeightAdjuster for Slower {
///     fn weight(&self, instance: &Instance, load: Load) -> u32 {
///         let slow = load.latency().is_some_and(|latency| latency.as_millis() > 100);
///         if slow { instance.weight() / 2 } else { instance.weight() }
///     }
/// }
/// ```
pub trait WeightAdjuster: Debug + Send + Sync + 'static {
    /// The weight of `instance` from now on; 0 takes no calls, unless nobody has a weight. An instance that was registered
    /// with weight 0 is out of service, and stays so.
    fn weight(&self, instance: &Instance, load: Load) -> u32;

    /// How often it is asked. Default 1 s; at least 100 ms is taken.
    fn interval(&self) -> Duration {
        Duration::from_secs(1)
    }
}
