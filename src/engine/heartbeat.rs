//! When to beat, and what a beat's answer means. Pure: the caller brings the time and carries the beat.
//!
//! Beats follow a fixed schedule of one per TTL, counted from the registration, so that a slow answer does not shift
//! those after it; the first is due at once, because a server's first check may find a never-beaten instance dead. A
//! beat that failed is tried again after a third of the TTL instead of a whole one, so that neither one lost beat nor
//! one dead server makes a gap of two TTL: a server holds an instance for dead after three.

use std::time::Duration;

use tokio::time::Instant;

/// Beats to which a server answers with success although it does not know the instance: "not found" says nothing before.
const TOLERATED: u32 = 4;

/// The least distance of two beats: servers refuse to hear the same instance more than once a second.
const LEAST_GAP: Duration = Duration::from_secs(1);

/// The longest pause between beats that a server refuses.
const MAX_REFUSED: Duration = Duration::from_secs(60);

/// The beats of one registration.
#[derive(Debug, Clone)]
pub(crate) struct Pulse {
    ttl: Duration,
    start: Instant,
    due: Instant,
    beats: u32,
    refusals: u32,
    last_accepted: Instant,
}

/// What to do after a server said that it does not know the instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum OnNotFound {
    /// The registration is young: its news may not have reached this server. Beat again.
    BeatAgain,
    /// It is lost: register again.
    Register,
}

impl Pulse {
    /// The beats of an instance that was registered at `now`.
    pub(crate) fn start(ttl: Duration, now: Instant) -> Self {
        Self { ttl, start: now, due: now, beats: 0, refusals: 0, last_accepted: now }
    }

    pub(crate) fn ttl(&self) -> Duration {
        self.ttl
    }

    /// When the next beat is due.
    pub(crate) fn due(&self) -> Instant {
        self.due
    }

    /// How long a beat may take, another try on another server included.
    pub(crate) fn deadline(&self) -> Duration {
        self.ttl / 3
    }

    /// A beat was accepted.
    pub(crate) fn accepted(&mut self, now: Instant) {
        self.beats = self.beats.saturating_add(1);
        self.refusals = 0;
        self.last_accepted = now;
        self.due = self.next_tick(now);
    }

    /// A beat was answered with "not found".
    pub(crate) fn not_found(&mut self, now: Instant) -> OnNotFound {
        self.beats = self.beats.saturating_add(1);
        self.due = self.next_tick(now);
        if self.beats < TOLERATED { OnNotFound::BeatAgain } else { OnNotFound::Register }
    }

    /// A beat failed on its way. Whether the server must hold the instance for dead by now.
    pub(crate) fn failed(&mut self, now: Instant) -> bool {
        self.due = self.next_tick(now).min(now + self.deadline().max(LEAST_GAP));
        now.saturating_duration_since(self.last_accepted) >= self.ttl * 3
    }

    /// A beat was refused, as by a token that is not accepted: pauses double from one TTL to a minute.
    pub(crate) fn refused(&mut self, now: Instant) {
        let pause = self.ttl.saturating_mul(1_u32.checked_shl(self.refusals).unwrap_or(u32::MAX));
        self.refusals = self.refusals.saturating_add(1);
        self.due = self.next_tick(now + pause.min(MAX_REFUSED.max(self.ttl)) - self.ttl);
    }

    /// The next moment of the schedule after `now`; moments that were missed are skipped, not made up for.
    fn next_tick(&self, now: Instant) -> Instant {
        let past = now.saturating_duration_since(self.start).as_nanos() / self.ttl.as_nanos().max(1);
        self.start + self.ttl * u32::try_from(past + 1).unwrap_or(u32::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const TTL: Duration = Duration::from_secs(5);

    #[tokio::test(start_paused = true)]
    async fn the_first_beat_is_due_at_once_and_slow_answers_do_not_shift_the_schedule() {
        let t0 = Instant::now();
        let mut pulse = Pulse::start(TTL, t0);
        assert_eq!(pulse.due(), t0);
        pulse.accepted(t0 + Duration::from_millis(1600));
        assert_eq!(pulse.due(), t0 + TTL);
        pulse.accepted(t0 + TTL + Duration::from_millis(900));
        assert_eq!(pulse.due(), t0 + 2 * TTL);
        pulse.accepted(t0 + 5 * TTL + Duration::from_millis(1));
        assert_eq!(pulse.due(), t0 + 6 * TTL, "missed moments are skipped");
    }

    #[tokio::test(start_paused = true)]
    async fn not_found_means_lost_from_the_fourth_beat_on() {
        let t0 = Instant::now();
        let mut pulse = Pulse::start(TTL, t0);
        let verdicts: Vec<_> = (0..5).map(|n| pulse.not_found(t0 + n * TTL)).collect();
        assert_eq!(verdicts[..3], [OnNotFound::BeatAgain; 3]);
        assert_eq!(verdicts[3..], [OnNotFound::Register; 2]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_failed_beat_is_tried_again_soon_and_three_ttl_without_one_mean_dead() {
        let t0 = Instant::now();
        let mut pulse = Pulse::start(TTL, t0);
        pulse.accepted(t0);
        let failed_at = t0 + TTL + pulse.deadline();
        assert!(!pulse.failed(failed_at));
        assert_eq!(pulse.due(), failed_at + TTL / 3);
        assert!(pulse.failed(t0 + 3 * TTL));
    }

    #[tokio::test(start_paused = true)]
    async fn refused_beats_become_rare_and_an_accepted_one_brings_the_rhythm_back() {
        let t0 = Instant::now();
        let mut pulse = Pulse::start(TTL, t0);
        let mut due = vec![];
        for _ in 0..7 {
            pulse.refused(pulse.due());
            due.push((pulse.due() - t0).as_secs());
        }
        assert_eq!(due, [5, 15, 35, 75, 135, 195, 255]);
        pulse.accepted(pulse.due());
        pulse.refused(pulse.due());
        assert_eq!((pulse.due() - t0).as_secs(), 265);
    }

    proptest! {
        #[test]
        fn the_next_beat_lies_within_one_ttl_and_never_in_the_past(
            ttl in 1u64..=60, steps in proptest::collection::vec((0u64..20_000, 0u8..3), 1..50),
        ) {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
            let mut now = runtime.block_on(async { Instant::now() });
            let mut pulse = Pulse::start(Duration::from_secs(ttl), now);
            for (ms, what) in steps {
                now += Duration::from_millis(ms);
                match what {
                    0 => pulse.accepted(now),
                    1 => { pulse.not_found(now); }
                    _ => { pulse.failed(now); }
                }
                prop_assert!(pulse.due() > now && pulse.due() <= now + Duration::from_secs(ttl));
            }
        }
    }
}
