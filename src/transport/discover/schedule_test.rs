//! The schedule by tables and by properties.

use super::*;
use crate::model::key::ServiceKey;
use proptest::prelude::*;
use rand::SeedableRng;
use rand::rngs::SmallRng;

const PACE: Pace = Pace { refresh: Duration::from_secs(2), answer: Duration::from_secs(5) };
const KNOWN: Verdict = Verdict::Known { changed: false };

fn key(n: usize) -> ServiceEventKey {
    ServiceKey::new("default", format!("s{n}")).of(ResourceKind::Instances)
}

fn schedule(keys: usize) -> (Schedule, Instant, SmallRng) {
    let mut schedule = Schedule::new(PACE);
    schedule.connected("a:1");
    (0..keys).for_each(|n| schedule.want(key(n)));
    (schedule, Instant::now(), SmallRng::seed_from_u64(1))
}

fn drain(schedule: &mut Schedule, now: Instant) -> Vec<Step> {
    std::iter::from_fn(|| schedule.next(now)).collect()
}

/// Answers everything that is outstanding.
fn settle_all(schedule: &mut Schedule, verdict: Verdict, now: Instant, rng: &mut SmallRng) {
    while let Some(question) = schedule.answered(now) {
        if let Question::Key(key) = question {
            schedule.settle(&key, verdict, now, rng);
        }
    }
}

#[test]
fn cold_keys_go_before_polls_in_the_order_they_were_wanted() {
    let (mut schedule, now, mut rng) = schedule(2);
    assert_eq!(drain(&mut schedule, now), [Step::Ask(key(0)), Step::Ask(key(1))]);
    settle_all(&mut schedule, KNOWN, now, &mut rng);
    assert_eq!(schedule.next(now), None);
    let later = now + PACE.refresh;
    schedule.want(key(8));
    schedule.want(key(7));
    let steps = drain(&mut schedule, later);
    assert_eq!(steps[..2], [Step::Ask(key(8)), Step::Ask(key(7))]);
    assert_eq!(steps.len(), 4);
}

#[test]
fn no_more_than_64_are_outstanding() {
    let (mut schedule, now, _) = schedule(100);
    assert_eq!(drain(&mut schedule, now).len(), MAX_OUTSTANDING);
    assert_eq!(schedule.wake_at(now), None);
    assert_eq!(schedule.answered(now), Some(Question::Key(key(0))));
    assert_eq!(drain(&mut schedule, now), [Step::Ask(key(64))]);
}

#[test]
fn the_deadline_follows_the_oldest_question_and_moves_with_every_answer() {
    let (mut schedule, now, _) = schedule(3);
    assert_eq!(schedule.deadline(), None);
    drain(&mut schedule, now);
    assert_eq!(schedule.deadline(), Some(now + PACE.answer));
    let later = now + Duration::from_secs(4);
    schedule.answered(later);
    assert_eq!(schedule.deadline(), Some(later + PACE.answer), "a server that works through a queue is alive");
    schedule.answered(later);
    schedule.answered(later);
    assert_eq!(schedule.deadline(), None);
    assert_eq!(schedule.answered(later), None);
}

#[test]
fn a_verdict_sets_when_the_key_is_asked_again() {
    for (verdict, least, most) in [
        (KNOWN, 1000, 2000),
        (Verdict::Known { changed: true }, 1000, 2000),
        (Verdict::Throttled, 1250, 2000),
        (Verdict::Refused, 5000, 20_000),
        (Verdict::Fault, 125, 500),
    ] {
        for seed in 0..100 {
            let (mut schedule, now, _) = schedule(1);
            drain(&mut schedule, now);
            settle_all(&mut schedule, verdict, now, &mut SmallRng::seed_from_u64(seed));
            let delay = (schedule.wake_at(now).unwrap() - now).as_millis();
            assert!((least..=most).contains(&delay), "{verdict:?} {delay}");
        }
    }
}

#[test]
fn only_so_many_keys_are_polled_more_often() {
    let (mut schedule, mut now, mut rng) = schedule(60);
    drain(&mut schedule, now);
    settle_all(&mut schedule, KNOWN, now, &mut rng);
    now += PACE.refresh * 2;
    assert_eq!(drain(&mut schedule, now).len(), 60);
    settle_all(&mut schedule, Verdict::Known { changed: true }, now, &mut rng);
    now += Duration::from_millis(600);
    assert_eq!(drain(&mut schedule, now).len(), MAX_FAST);
    settle_all(&mut schedule, KNOWN, now, &mut rng);
    now += FAST_FOR;
    drain(&mut schedule, now);
    settle_all(&mut schedule, KNOWN, now, &mut rng);
    assert!(schedule.fast.is_empty());
    now += Duration::from_millis(600);
    assert!(drain(&mut schedule, now).is_empty());
}

#[test]
fn after_a_lost_stream_every_key_is_due_and_after_one_that_was_left_none_is() {
    for (end, due) in [(StreamEnd::Left, 0), (StreamEnd::Lost, 10), (StreamEnd::Ended, 10)] {
        let (mut schedule, now, mut rng) = schedule(10);
        drain(&mut schedule, now);
        settle_all(&mut schedule, KNOWN, now, &mut rng);
        assert_eq!(schedule.disconnected(end, now, &mut rng), None);
        schedule.connected("b:1");
        assert_eq!(drain(&mut schedule, now).len(), due, "{end:?}");
    }
}

#[test]
fn a_key_that_streams_end_over_is_held_back_from_the_second_time_on() {
    let (mut schedule, now, mut rng) = schedule(2);
    for held_back in [None, Some(key(0))] {
        assert_eq!(schedule.next(now), Some(Step::Ask(key(0))));
        assert_eq!(schedule.disconnected(StreamEnd::Ended, now, &mut rng), held_back);
        // The other one is next in line, and is answered.
        if held_back.is_none() {
            assert_eq!(schedule.next(now), Some(Step::Ask(key(1))));
            settle_all(&mut schedule, KNOWN, now, &mut rng);
        }
    }
    assert!(!drain(&mut schedule, now).contains(&Step::Ask(key(0))));
    assert!(drain(&mut schedule, now + Duration::from_secs(60)).contains(&Step::Ask(key(0))));
}

/// What happens to a schedule.
#[derive(Debug, Clone)]
enum Event {
    Want(usize),
    Forget(usize),
    Answer(u8),
    End(u8),
    Pass(u64),
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        4 => (0usize..120).prop_map(Event::Want),
        1 => (0usize..120).prop_map(Event::Forget),
        6 => (0u8..8).prop_map(Event::Answer),
        1 => (0u8..3).prop_map(Event::End),
        3 => (0u64..3000).prop_map(Event::Pass),
    ]
}

/// A mix of kinds, so that probes and parked keys take part.
fn mixed(n: usize) -> ServiceEventKey {
    let kind = [ResourceKind::Instances, ResourceKind::FaultDetector, ResourceKind::Lane][n % 3];
    ServiceKey::new("default", format!("s{n}")).of(kind)
}

fn apply(schedule: &mut Schedule, event: &Event, now: &mut Instant, rng: &mut SmallRng) {
    match event {
        Event::Want(n) => schedule.want(mixed(*n)),
        Event::Forget(n) => schedule.forget(&mixed(*n)),
        Event::Pass(millis) => *now += Duration::from_millis(*millis),
        Event::End(how) => {
            let end = [StreamEnd::Lost, StreamEnd::Ended, StreamEnd::Lost][usize::from(*how)];
            schedule.disconnected(end, *now, rng);
            schedule.connected(if *how == 0 { "a:1" } else { "b:1" });
        }
        Event::Answer(how) => match schedule.answered(*now) {
            Some(Question::Probe(kind)) => {
                schedule.probed(kind, how % 2 == 0);
            }
            Some(Question::Key(key)) => match how {
                0 if key.kind.is_rule() => schedule.unsupported(&key),
                1 => schedule.settle(&key, Verdict::Throttled, *now, rng),
                2 => schedule.settle(&key, Verdict::Refused, *now, rng),
                3 => schedule.settle(&key, Verdict::Fault, *now, rng),
                4 => schedule.settle(&key, Verdict::Known { changed: true }, *now, rng),
                // Never settled: the stream was given up over the answer.
                5 => {}
                _ => schedule.settle(&key, KNOWN, *now, rng),
            },
            _ => {}
        },
    }
}

proptest! {
    #[test]
    fn every_wanted_key_is_asked_for_in_the_end_and_never_more_than_64_at_once(
        events in proptest::collection::vec(event(), 0..200), seed: u64,
    ) {
        let mut schedule = Schedule::new(PACE);
        schedule.connected("a:1");
        let (mut now, mut rng) = (Instant::now(), SmallRng::seed_from_u64(seed));
        for event in &events {
            apply(&mut schedule, event, &mut now, &mut rng);
            let cold: HashSet<u64> = schedule.cold.iter().copied().collect();
            let askable = cold.iter().any(|id| !schedule.slots[id].key.kind.is_rule());
            if let (true, Some(Step::Ask(key))) = (askable, schedule.next(now)) {
                prop_assert!(cold.contains(&schedule.ids[&key]), "a poll of {key} before a cold key");
            }
            drain(&mut schedule, now);
            prop_assert!(schedule.outstanding() <= MAX_OUTSTANDING);
            prop_assert!(schedule.fast.len() <= MAX_FAST);
        }
        // From here on the server serves everything: each wanted key is asked for, or known not to be served.
        let mut missing: HashSet<ServiceEventKey> = schedule.ids.keys().cloned().collect();
        schedule.disconnected(StreamEnd::Lost, now, &mut rng);
        schedule.connected("c:1");
        for _ in 0..100 {
            for step in drain(&mut schedule, now) {
                if let Step::Ask(key) = step {
                    missing.remove(&key);
                }
            }
            while let Some(question) = schedule.answered(now) {
                match question {
                    Question::Key(key) => schedule.settle(&key, KNOWN, now, &mut rng),
                    Question::Probe(kind) => prop_assert!(schedule.probed(kind, true).is_empty()),
                    Question::Forgotten => {}
                }
            }
            now += Duration::from_secs(4);
        }
        prop_assert!(missing.is_empty(), "never asked for: {missing:?}");
    }
}
