//! Which server is talked to: rotation, demotion after a failure, a switch now and then.
//!
//! Pure: time and randomness are arguments. The first choice is random, so that clients spread over the servers; then it
//! sticks, because a connection costs both sides. A server that failed is avoided until its penalty expires; when all
//! are, the one that failed longest ago is taken, so there is always somebody to talk to, and each has its turn.

use std::collections::HashMap;
use std::time::Duration;

use rand::{Rng, RngExt};
use tokio::time::Instant;

use crate::model::server::ServerAddr;
use crate::util::deadline::after;

/// The penalty of a first failure; it doubles with every further one.
const PENALTY: Duration = Duration::from_secs(5);
/// The longest penalty.
const MAX_PENALTY: Duration = Duration::from_secs(60);

/// The servers of one cluster, and the one in use.
#[derive(Debug)]
pub(crate) struct Servers {
    /// The configured ones.
    bootstrap: Vec<ServerAddr>,
    /// Those found by discovery; while there are none, the configured ones count.
    found: Vec<ServerAddr>,
    current: Option<Current>,
    penalties: HashMap<ServerAddr, Penalty>,
    switch_interval: Duration,
    epoch: u64,
}

#[derive(Debug)]
struct Current {
    server: ServerAddr,
    switch_at: Instant,
}

#[derive(Debug)]
struct Penalty {
    failures: u32,
    until: Instant,
    last: Instant,
}

impl Servers {
    /// A `switch_interval` of zero never switches.
    pub(crate) fn new(bootstrap: Vec<ServerAddr>, switch_interval: Duration) -> Self {
        Self { bootstrap, found: Vec::new(), current: None, penalties: HashMap::new(), switch_interval, epoch: 0 }
    }

    /// Replaces the servers found by discovery; an empty list goes back to the configured ones. Whether it changed
    /// anything.
    pub(crate) fn set(&mut self, mut found: Vec<ServerAddr>) -> bool {
        found.sort_unstable();
        found.dedup();
        if found == self.found {
            return false;
        }
        let before = self.list().to_vec();
        self.found = found;
        let list = if self.found.is_empty() { &self.bootstrap } else { &self.found };
        self.penalties.retain(|server, _| list.contains(server));
        if self.current.as_ref().is_some_and(|current| !list.contains(&current.server)) {
            self.current = None;
        }
        // A stream may be on any of them.
        if before.iter().any(|server| !list.contains(server)) {
            self.epoch += 1;
        }
        true
    }

    /// The server to talk to. `None` only if there is no server at all.
    pub(crate) fn current(&mut self, now: Instant, rng: &mut impl Rng) -> Option<ServerAddr> {
        if let Some(current) = &self.current
            && now < current.switch_at
        {
            return Some(current.server.clone());
        }
        let previous = self.current.take();
        let server = self.choose(now, previous.as_ref().map(|current| &current.server), rng)?;
        if previous.is_some_and(|previous| previous.server != server) {
            self.epoch += 1;
        }
        let switch_at = self.switch_at(now, rng);
        self.current = Some(Current { server: server.clone(), switch_at });
        Some(server)
    }

    /// The same, but none of `avoid`: for a call that must not reach those again. `None` if there is no other.
    pub(crate) fn beside(&mut self, avoid: &[ServerAddr], now: Instant, rng: &mut impl Rng) -> Option<ServerAddr> {
        let current = self.current(now, rng)?;
        if !avoid.contains(&current) {
            return Some(current);
        }
        let others = self.list().iter().filter(|server| !avoid.contains(server));
        others
            .min_by_key(|server| {
                (self.is_penalised(server, now), self.penalties.get(server).map(|penalty| penalty.last))
            })
            .cloned()
    }

    /// Changes whenever long-lived streams are to move to what [`Servers::current`] says: after a planned switch, and
    /// when a server left the list. A failure is no such reason: it may concern one call only.
    pub(crate) fn epoch(&self) -> u64 {
        self.epoch
    }

    /// When the server in use is to be exchanged.
    pub(crate) fn next_switch(&self) -> Option<Instant> {
        self.current.as_ref().map(|current| current.switch_at)
    }

    /// Demotes a server that failed.
    pub(crate) fn failed(&mut self, server: &ServerAddr, now: Instant) {
        if !self.list().contains(server) {
            return;
        }
        let penalty = self.penalties.entry(server.clone()).or_insert(Penalty { failures: 0, until: now, last: now });
        penalty.last = now;
        // Calls that fail together count once: they speak of one event.
        if penalty.failures == 0 || now >= penalty.until {
            let length = PENALTY.saturating_mul(1_u32.checked_shl(penalty.failures).unwrap_or(u32::MAX));
            penalty.failures = (penalty.failures + 1).min(16);
            penalty.until = now + length.min(MAX_PENALTY);
        }
        if self.current.as_ref().is_some_and(|current| current.server == *server) {
            self.current = None;
        }
    }

    /// Lifts the penalty of a server that answered.
    pub(crate) fn succeeded(&mut self, server: &ServerAddr) {
        // There is hardly ever one, and every answer comes by.
        if !self.penalties.is_empty() {
            self.penalties.remove(server);
        }
    }

    /// Whether another server than `server` could be tried without a penalty.
    pub(crate) fn has_alternative(&self, server: &ServerAddr, now: Instant) -> bool {
        self.list().iter().any(|other| other != server && !self.is_penalised(other, now))
    }

    pub(crate) fn len(&self) -> usize {
        self.list().len()
    }

    fn list(&self) -> &[ServerAddr] {
        if self.found.is_empty() { &self.bootstrap } else { &self.found }
    }

    fn is_penalised(&self, server: &ServerAddr, now: Instant) -> bool {
        self.penalties.get(server).is_some_and(|penalty| now < penalty.until)
    }

    fn choose(&self, now: Instant, avoid: Option<&ServerAddr>, rng: &mut impl Rng) -> Option<ServerAddr> {
        let good: Vec<&ServerAddr> = self.list().iter().filter(|server| !self.is_penalised(server, now)).collect();
        let others: Vec<&ServerAddr> = good.iter().copied().filter(|server| Some(*server) != avoid).collect();
        let pool = if others.is_empty() { good } else { others };
        if pool.is_empty() {
            return self.list().iter().min_by_key(|s| self.penalties.get(s).map(|penalty| penalty.last)).cloned();
        }
        pool.get(rng.random_range(0..pool.len())).map(|server| (*server).clone())
    }

    /// Jittered by a tenth either way: clients that started together do not switch together.
    fn switch_at(&self, now: Instant, rng: &mut impl Rng) -> Instant {
        const NEVER: Duration = Duration::from_secs(365 * 24 * 3600);
        let interval = if self.switch_interval.is_zero() { NEVER } else { self.switch_interval };
        after(now, interval.min(NEVER).mul_f64(rng.random_range(0.9..1.1)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rand::SeedableRng;
    use rand::rngs::SmallRng;

    const SWITCH: Duration = Duration::from_secs(600);

    fn server(n: u16) -> ServerAddr {
        ServerAddr::new(format!("10.0.0.{n}"), 8091, false)
    }

    fn three(seed: u64) -> (Servers, SmallRng, Instant) {
        (Servers::new((0..3).map(server).collect(), SWITCH), SmallRng::seed_from_u64(seed), Instant::now())
    }

    #[test]
    fn the_first_choice_spreads_clients_over_all_servers() {
        let mut counts = [0; 3];
        for seed in 0..3000 {
            let (mut servers, mut rng, now) = three(seed);
            let chosen = servers.current(now, &mut rng).unwrap();
            counts[(0..3).position(|n| server(n) == chosen).unwrap()] += 1;
        }
        assert!(counts.iter().all(|n| (800..1200).contains(n)), "{counts:?}");
    }

    #[test]
    fn a_choice_sticks_until_the_switch_and_then_moves() {
        let (mut servers, mut rng, now) = three(1);
        let first = servers.current(now, &mut rng).unwrap();
        let epoch = servers.epoch();
        assert_eq!(servers.current(now + SWITCH.mul_f64(0.89), &mut rng), Some(first.clone()));
        assert_eq!(servers.epoch(), epoch);
        assert_ne!(servers.current(now + SWITCH.mul_f64(1.11), &mut rng), Some(first));
        assert_ne!(servers.epoch(), epoch);
    }

    #[test]
    fn a_failed_server_is_avoided_until_its_penalty_is_over_or_all_have_one() {
        let (mut servers, mut rng, now) = three(2);
        servers.failed(&server(0), now);
        servers.failed(&server(1), now);
        assert_eq!(servers.current(now, &mut rng), Some(server(2)));
        servers.failed(&server(2), now + PENALTY / 2);
        let seconds = |n: u32| now + Duration::from_secs(1) * n;
        // All are demoted: each has its turn.
        servers.failed(&server(0), seconds(3));
        assert_eq!(servers.current(seconds(3), &mut rng), Some(server(1)));
        servers.failed(&server(1), seconds(4));
        assert_eq!(servers.current(seconds(4), &mut rng), Some(server(2)));
        assert!(servers.has_alternative(&server(2), now + PENALTY));
        assert!(!servers.has_alternative(&server(2), now));
    }

    #[test]
    fn penalties_double_and_a_success_lifts_them() {
        let (mut servers, _, now) = three(3);
        servers.failed(&server(0), now);
        servers.failed(&server(0), now);
        assert!(!servers.is_penalised(&server(0), now + PENALTY), "two calls that failed together count once");
        servers.failed(&server(0), now + PENALTY);
        assert!(servers.is_penalised(&server(0), now + PENALTY * 2));
        servers.succeeded(&server(0));
        assert!(!servers.is_penalised(&server(0), now + PENALTY));
    }

    #[test]
    fn servers_found_replace_the_configured_ones_until_none_are_found() {
        let (mut servers, mut rng, now) = three(4);
        servers.current(now, &mut rng);
        let epoch = servers.epoch();
        assert!(servers.set(vec![server(7)]));
        assert!(!servers.set(vec![server(7)]));
        assert_ne!(servers.epoch(), epoch);
        assert_eq!(servers.current(now, &mut rng), Some(server(7)));
        servers.set(Vec::new());
        assert_ne!(servers.current(now, &mut rng), Some(server(7)));
    }

    #[test]
    fn a_switch_interval_without_end_never_switches() {
        let mut servers = Servers::new(vec![server(1), server(2)], Duration::MAX);
        let (now, mut rng) = (Instant::now(), SmallRng::seed_from_u64(5));
        let first = servers.current(now, &mut rng);
        assert_eq!(servers.current(now + SWITCH * 100, &mut rng), first);
    }

    #[test]
    fn a_call_that_avoids_servers_gets_another_one_or_none() {
        let (mut servers, mut rng, now) = three(6);
        let mut avoided = Vec::new();
        for _ in 0..3 {
            let next = servers.beside(&avoided, now, &mut rng).unwrap();
            assert!(!avoided.contains(&next));
            servers.failed(&next, now);
            avoided.push(next);
        }
        assert_eq!(servers.beside(&avoided, now, &mut rng), None);
    }

    proptest! {
        #[test]
        fn there_is_always_a_server_if_any_is_known(
            failures in proptest::collection::vec((0u16..3, 0u64..100), 0..50), seed: u64,
        ) {
            let (mut servers, mut rng, mut now) = three(seed);
            for (n, seconds) in failures {
                now += Duration::from_secs(seconds);
                let before = servers.current(now, &mut rng).unwrap();
                servers.failed(&server(n), now);
                let after = servers.current(now, &mut rng).unwrap();
                prop_assert!(before == server(n) || after == before, "only the failed one is left");
                prop_assert!(after != server(n) || !servers.has_alternative(&server(n), now));
            }
        }
    }
}
