//! The empty guard: whether an answer that takes instances away is believed. Pure; time is an argument.
//!
//! A control plane that restarts with an empty store, or reads half of its database, answers with lists that are well
//! formed and wrong. So an answer that leaves nothing, or far less than before, is only believed when it has been seen
//! again for a whole window; a real scale-to-zero arrives that much later, but it arrives. Any answer that is not
//! suspicious ends the hold at once.

use std::time::Duration;

use tokio::time::Instant;

/// Below this many instances a loss says nothing: from two to none in a rolling update is every day's business.
const JUDGED_FROM: usize = 5;

/// What is done with an answer that leaves no instances, or far fewer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum GuardPolicy {
    /// It is served at once.
    Accept,
    /// The last good list is served in place of an empty one until it is this old.
    KeepLast { max_age: Duration },
    /// It is served once it has been seen for this long. From five instances on, losing `shrink_percent` of them or more
    /// counts as well.
    Guard { window: Duration, shrink_percent: u8 },
}

/// What an answer offers in place of what is served.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Offer {
    /// So many items. Isolated and unhealthy instances count: their provider is there and says so.
    Holds(usize),
    /// The service is not there.
    Gone,
}

/// What is served now.
#[derive(Debug, Clone, Copy)]
pub(super) struct Known {
    pub(super) items: usize,
    /// Since it was last confirmed.
    pub(super) age: Duration,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    Serve,
    Hold,
}

/// The guard of one key: the suspicious answer that is being watched, if there is one.
#[derive(Debug, Default)]
pub(super) struct Guard(Option<Hold>);

#[derive(Debug, Clone, Copy)]
struct Hold {
    /// Since when such answers have been seen without a gap; none after an interruption.
    since: Option<Instant>,
    severity: Severity,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Severity {
    Shrunk,
    Empty,
    Gone,
}

impl Guard {
    /// Judges an answer, be it new or one that was seen before.
    ///
    /// An answer that is worse than what the hold began with starts the window anew; one that is as bad or less bad
    /// does not, so that lists which go on changing while they are held cannot be held for ever.
    pub(super) fn judge(&mut self, policy: GuardPolicy, known: Known, offer: Offer, now: Instant) -> Verdict {
        let Some(severity) = suspicion(policy, known.items, offer) else {
            self.0 = None;
            return Verdict::Serve;
        };
        let (since, severity) = match self.0 {
            Some(Hold { since: Some(since), severity: held }) if held >= severity => (since, held),
            _ => (now, severity),
        };
        let believed = match policy {
            GuardPolicy::Accept => true,
            GuardPolicy::KeepLast { max_age } => known.age >= max_age,
            GuardPolicy::Guard { window, .. } => now.saturating_duration_since(since) >= window,
        };
        self.0 = (!believed).then_some(Hold { since: Some(since), severity });
        if believed { Verdict::Serve } else { Verdict::Hold }
    }

    /// The control plane was lost, or it failed, in between: what comes next has to be seen for a whole window again.
    pub(super) fn interrupt(&mut self) {
        if let Some(hold) = &mut self.0 {
            hold.since = None;
        }
    }

    #[cfg(test)]
    pub(super) fn is_holding(&self) -> bool {
        self.0.is_some()
    }
}

fn suspicion(policy: GuardPolicy, known: usize, offer: Offer) -> Option<Severity> {
    let percent = match policy {
        GuardPolicy::Accept => return None,
        GuardPolicy::KeepLast { .. } => None,
        GuardPolicy::Guard { shrink_percent, .. } => Some(usize::from(shrink_percent)),
    };
    match offer {
        _ if known == 0 => None,
        Offer::Gone => Some(Severity::Gone),
        Offer::Holds(0) => Some(Severity::Empty),
        Offer::Holds(left) if known >= JUDGED_FROM && left < known => {
            let lost = (known - left).saturating_mul(100);
            percent.filter(|percent| lost >= known.saturating_mul(*percent)).map(|_| Severity::Shrunk)
        }
        Offer::Holds(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const WINDOW: Duration = Duration::from_secs(6);
    const GUARD: GuardPolicy = GuardPolicy::Guard { window: WINDOW, shrink_percent: 80 };
    const KEEP: GuardPolicy = GuardPolicy::KeepLast { max_age: Duration::from_secs(60) };

    /// Judges answers at the given seconds over a list of `known` items that was good at second 0.
    fn run(policy: GuardPolicy, known: usize, answers: &[(u64, Offer)]) -> Vec<Verdict> {
        let (start, mut guard) = (Instant::now(), Guard::default());
        let judge = |&(second, offer): &(u64, Offer)| {
            let age = Duration::from_secs(second);
            guard.judge(policy, Known { items: known, age }, offer, start + age)
        };
        answers.iter().map(judge).collect()
    }

    use Offer::{Gone, Holds};
    use Verdict::{Hold as H, Serve as S};

    #[test]
    fn one_empty_list_and_a_not_found_are_held_by_all_but_accept() {
        let answers = [(2, Holds(0)), (5, Gone)];
        assert_eq!(run(GUARD, 10, &answers), [H, H]);
        assert_eq!(run(KEEP, 10, &answers), [H, H]);
        assert_eq!(run(GuardPolicy::Accept, 10, &answers), [S, S]);
    }

    #[test]
    fn an_empty_list_that_stays_is_believed_after_the_window_or_the_age() {
        let answers: Vec<_> = (1..=31).map(|n| (n * 2, Holds(0))).collect();
        let first = |policy| run(policy, 10, &answers).iter().position(|v| *v == S).map(|n| answers[n].0);
        assert_eq!(first(GUARD), Some(2 + 6), "the window counts from the first sight");
        assert_eq!(first(KEEP), Some(60), "the age counts from the last good answer");
        assert_eq!(first(GuardPolicy::Accept), Some(2));
    }

    #[test]
    fn nine_of_ten_lost_at_once_are_held_by_the_guard_until_confirmed() {
        let answers = [(2, Holds(1)), (4, Holds(1)), (8, Holds(1))];
        assert_eq!(run(GUARD, 10, &answers), [H, H, S]);
        assert_eq!(run(KEEP, 10, &answers), [S, S, S], "keeping the last list is about empty ones");
        assert_eq!(run(GuardPolicy::Accept, 10, &answers), [S, S, S]);
    }

    #[test]
    fn a_loss_is_judged_from_five_instances_on_and_from_the_percentage_on() {
        for (known, left, verdict) in [(4, 1, S), (5, 1, H), (5, 2, S), (10, 2, H), (10, 3, S), (100, 20, H), (9, 9, S)]
        {
            assert_eq!(run(GUARD, known, &[(1, Holds(left))]), [verdict], "{known} -> {left}");
        }
    }

    #[test]
    fn nothing_is_held_where_nothing_can_be_lost() {
        assert_eq!(run(GUARD, 0, &[(1, Gone)]), [S]);
        assert_eq!(run(GUARD, 0, &[(1, Holds(0))]), [S]);
    }

    #[test]
    fn a_good_answer_in_between_cancels_the_hold() {
        let answers = [(2, Holds(0)), (6, Holds(10)), (9, Holds(0)), (14, Holds(0)), (15, Holds(0))];
        assert_eq!(run(GUARD, 10, &answers), [H, S, H, H, S]);
    }

    #[test]
    fn a_worse_answer_starts_the_window_anew_and_a_less_bad_one_does_not() {
        assert_eq!(run(GUARD, 10, &[(0, Holds(1)), (5, Holds(0)), (6, Holds(0)), (11, Holds(0))]), [H, H, H, S]);
        assert_eq!(run(GUARD, 10, &[(0, Holds(0)), (3, Holds(1)), (6, Holds(2))]), [H, H, S]);
    }

    #[test]
    fn an_interruption_asks_for_a_whole_window_again() {
        let (start, mut guard) = (Instant::now(), Guard::default());
        let at = |guard: &mut Guard, second| {
            let age = Duration::from_secs(second);
            guard.judge(GUARD, Known { items: 10, age }, Gone, start + age)
        };
        assert_eq!(at(&mut guard, 0), H);
        guard.interrupt();
        assert!(guard.is_holding());
        assert_eq!((at(&mut guard, 600), at(&mut guard, 605), at(&mut guard, 606)), (H, H, S));
        assert!(!guard.is_holding());
    }

    fn offer() -> impl Strategy<Value = Offer> {
        prop_oneof![Just(Gone), (0usize..12).prop_map(Holds)]
    }

    proptest! {
        #[test]
        fn what_is_suspicious_is_never_served_before_it_was_seen_for_a_whole_window(
            known in 0usize..12, steps in proptest::collection::vec((0u64..5, offer()), 1..60),
        ) {
            let (mut second, mut run_since) = (0, None);
            let mut answers = vec![];
            for (pause, offer) in &steps {
                second += pause;
                answers.push((second, *offer));
            }
            for ((second, offer), verdict) in answers.iter().zip(run(GUARD, known, &answers)) {
                if suspicion(GUARD, known, *offer).is_none() {
                    prop_assert_eq!(verdict, S, "a good answer is served at once");
                    run_since = None;
                } else {
                    let since = *run_since.get_or_insert(*second);
                    prop_assert!(verdict == H || second - since >= WINDOW.as_secs());
                    if verdict == S {
                        run_since = None;
                    }
                }
            }
        }

        #[test]
        fn suspicious_answers_without_a_good_one_are_believed_after_three_windows_at_the_latest(
            steps in proptest::collection::vec((1u64..3, prop_oneof![Just(Gone), Just(Holds(0)), Just(Holds(1))]), 30),
        ) {
            let mut second = 0;
            let answers: Vec<_> = steps.iter().map(|(pause, offer)| { second += pause; (second, *offer) }).collect();
            let served = run(GUARD, 10, &answers).iter().position(|v| *v == S).map(|n| answers[n].0);
            prop_assert!(served.is_some_and(|at| at - answers[0].0 <= 3 * (WINDOW.as_secs() + 2)), "{served:?}");
        }
    }
}
