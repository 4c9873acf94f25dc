//! In what a control plane differs from others of its kind: its release, its store, its pace.

use std::time::Duration;

use super::rules::Dialect;

/// Which server the embedded one speaks like, where releases differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
#[non_exhaustive]
pub enum Release {
    /// 1.14: a beat of an unknown instance is refused at once, rules of an unknown service are "not found", and an
    /// alias is not told.
    V1_14,
    /// 1.16.4: rules of an unknown service are "not found", routing rules come in both forms, and of the service behind an
    /// alias only the name is told.
    V1_16,
    /// 1.17.9: no token header, no service contracts.
    V1_17,
    /// 1.18.1.
    V1_18,
    /// 1.19, the main branch: sends a flag that newer specifications declare with another type, names the source in the
    /// instances of an alias, and gives every empty list the same revision.
    #[default]
    Main,
}

/// How routing rules reach clients.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum RoutingForm {
    /// As the inbound and outbound routes of a service, as public servers deliver them.
    Converted,
    /// As the console wrote them (`Routing.rules`), and in no other form. Rules in the old form do not come.
    Native,
    /// In both forms at once, as 1.16 delivers them.
    Both,
}

impl RoutingForm {
    pub(super) fn is_converted(self) -> bool {
        self != Self::Native
    }

    pub(super) fn is_native(self) -> bool {
        self != Self::Converted
    }
}

/// Everything that can be set about how the control plane behaves.
#[derive(Debug, Clone)]
#[allow(clippy::struct_excessive_bools, reason = "independent switches")]
pub(super) struct Behaviour {
    pub(super) release: Release,
    /// Deregistrations of the standalone server's store may never be seen.
    pub(super) bolt_store: bool,
    /// Services and namespaces appear with their first instance.
    pub(super) auto_create: bool,
    /// Health checks are on at all.
    pub(super) health_checks: bool,
    /// Serves the kinds of resource that only newer servers know.
    pub(super) newer_kinds: bool,
    /// How routing rules are delivered, if not as the release does.
    pub(super) routing_form: Option<RoutingForm>,
    /// Puts up with HTTP/2 pings, which real servers do not.
    pub(super) tolerates_pings: bool,
    /// Goes on telling what it first told of a service without instances.
    pub(super) stale_empty_lists: bool,
    /// From the acknowledgement of a write until clients see it.
    pub(super) visible_after: Duration,
    /// How long a registration is gathered with others before it is answered.
    pub(super) batch_window: Duration,
    /// The longest time between two checks of one instance.
    pub(super) check_interval: Duration,
    /// How long a second of a TTL lasts.
    pub(super) second: Duration,
}

impl Default for Behaviour {
    fn default() -> Self {
        Self {
            release: Release::Main,
            bolt_store: false,
            auto_create: true,
            health_checks: true,
            newer_kinds: false,
            routing_form: None,
            tolerates_pings: false,
            stale_empty_lists: false,
            visible_after: Duration::ZERO,
            batch_window: Duration::ZERO,
            check_interval: Duration::from_secs(30),
            second: Duration::from_secs(1),
        }
    }
}

impl Behaviour {
    pub(super) fn routing_form(&self) -> RoutingForm {
        let of_release = if self.release == Release::V1_16 { RoutingForm::Both } else { RoutingForm::Converted };
        self.routing_form.unwrap_or(of_release)
    }

    pub(super) fn dialect(&self) -> Dialect {
        Dialect { release: self.release, whole: self.newer_kinds }
    }

    /// How long an instance of this TTL may be silent.
    pub(super) fn patience(&self, ttl: u32) -> Duration {
        self.second.saturating_mul(ttl.saturating_mul(3))
    }

    /// The time between two checks of an instance of this TTL.
    pub(super) fn check_every(&self, ttl: u32) -> Duration {
        self.patience(ttl).min(self.check_interval).max(Duration::from_millis(1))
    }
}
