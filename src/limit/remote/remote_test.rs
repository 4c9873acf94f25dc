//! What clients grant together, in virtual time, and what threads grant of one share.

#![allow(
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    clippy::cast_precision_loss,
    reason = "small numbers of a simulation"
)]

use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use super::period::{MOST, Periods, Word};
use super::simulation::{Demand, Kind, MILLI, SECOND, Simulation};
use super::{Failover, RetryAfter, Share};
use crate::model::limiter::{QuotaLeft, QuotaTotal};

const PERIODS: usize = 30;

/// Lets thirty whole windows pass after the first one.
fn thirty(seconds: u32, mut simulation: Simulation) -> Simulation {
    simulation.run((PERIODS as u64 + 1) * u64::from(seconds) * SECOND);
    simulation
}

fn total(seconds: u32, amount: u32) -> QuotaTotal {
    QuotaTotal { seconds, amount, per_client: false }
}

fn left(left: i64, clients: u32) -> QuotaLeft {
    QuotaLeft { counter: 1, left, clients }
}

/// Takes all that there is.
fn drain(share: &Share, now: u64) -> u64 {
    let mut taken = 0;
    while share.take(now).is_ok() {
        taken += 1;
    }
    taken
}

fn take_some(share: &Share, count: u32, now: u64) {
    for _ in 0..count {
        assert!(share.take(now).is_ok());
    }
}

fn share_of(simulation: &Simulation, client: usize) -> &Share {
    match &simulation.clients[client].kind {
        Kind::Ours(share) => share,
        Kind::Go { .. } => panic!("a share of ours"),
    }
}

#[test]
fn ten_clients_that_take_all_they_can_use_up_the_quota_and_no_more() {
    for (seconds, amount, seeds) in [
        (1, 20, 3),
        (1, 100, 3),
        (1, 1000, 3),
        (1, 100_000, 1),
        (10, 20, 2),
        (10, 1000, 1),
        (60, 100, 1),
        (60, 20_000, 1),
    ] {
        for seed in 0..seeds {
            for tick in [1, 10] {
                let mut simulation = Simulation::new(seconds, amount, seed);
                simulation.tick = tick * MILLI;
                let part = thirty(seconds, simulation.ours(10, Demand::Greedy)).part(1..PERIODS + 1);
                assert!((0.90..=1.05).contains(&part), "{part} of {amount} in {seconds} s, {tick} ms, seed {seed}");
            }
        }
    }
}

#[test]
fn one_client_alone_uses_what_nine_idle_ones_leave() {
    for (seconds, amount) in [(1, 20), (1, 1000), (10, 100), (60, 1000)] {
        let simulation = Simulation::new(seconds, amount, 4).ours(1, Demand::Greedy).ours(9, Demand::Idle);
        let simulation = thirty(seconds, simulation);
        let part = simulation.part(1..PERIODS + 1);
        assert!((0.90..=1.05).contains(&part), "{part} of {amount} in {seconds} s");
        let idle = &simulation.clients[9];
        let most = (PERIODS as u64 + 2) * u64::from(seconds.div_ceil(10));
        assert!(idle.asked <= most + 1, "an idle client asks once in a period: {}", idle.asked);
    }
}

#[test]
fn shares_of_few_calls_are_rounded_up_as_often_as_down() {
    for seed in 0..5 {
        let simulation = Simulation::new(1, 20, seed).ours(3, Demand::Greedy).ours(7, Demand::Poisson(1));
        let part = thirty(1, simulation).part(1..PERIODS + 1);
        assert!((0.90..=1.05).contains(&part), "{part}, seed {seed}");
    }
}

#[test]
fn a_demand_below_the_quota_is_granted() {
    for (seconds, amount, rate) in [(1, 100, 8), (1, 1000, 80), (10, 1000, 8), (60, 6000, 8)] {
        for seed in 0..3 {
            let simulation = Simulation::new(seconds, amount, seed).ours(10, Demand::Poisson(rate));
            let simulation = thirty(seconds, simulation);
            let sum = |of: fn(&Simulation, usize) -> u64| (0..10).map(|client| of(&simulation, client)).sum::<u64>();
            let granted = sum(|all, client| all.granted(client, 1..PERIODS + 1)) as f64;
            let wanted = sum(|all, client| all.wanted(client, 1..PERIODS + 1)) as f64;
            assert!(granted >= 0.98 * wanted, "{granted} of {wanted}, {amount} in {seconds} s, seed {seed}");
        }
    }
}

#[test]
fn a_heavy_client_does_not_starve_light_ones() {
    for (seconds, amount, light) in [(1, 100, 5), (1, 1000, 50), (1, 1000, 100), (10, 1000, 5), (60, 6000, 10)] {
        for seed in 0..3 {
            let heavy = 2 * u64::from(amount / seconds) - 9 * light;
            let simulation =
                Simulation::new(seconds, amount, seed).ours(1, Demand::Poisson(heavy)).ours(9, Demand::Poisson(light));
            let simulation = thirty(seconds, simulation);
            let part = simulation.part(1..PERIODS + 1);
            assert!((0.90..=1.05).contains(&part), "{part} of {amount} in {seconds} s, seed {seed}");
            let fair = f64::from(amount) * PERIODS as f64 / 10.0;
            for client in 0..10 {
                let due = fair.min(simulation.wanted(client, 1..PERIODS + 1) as f64);
                let granted = simulation.granted(client, 1..PERIODS + 1) as f64;
                assert!(granted >= 0.8 * due, "{client}: {granted} of {due}, {amount} in {seconds} s, seed {seed}");
            }
        }
    }
}

#[test]
fn the_first_period_of_all_is_not_overdrawn_either() {
    for (seed, amount) in [(0, 100), (1, 1000), (2, 10_000)] {
        let mut simulation = Simulation::new(1, amount, seed).ours(10, Demand::Idle);
        simulation.run(20 * MILLI);
        simulation.clients.iter_mut().for_each(|client| client.demand = Demand::Greedy);
        simulation.run(840 * MILLI);
        let part = simulation.part(0..1);
        assert!((0.90..=1.10).contains(&part), "{part}, seed {seed}");
    }
}

#[test]
fn a_newcomer_has_its_part_two_periods_after_it_came() {
    let mut simulation = Simulation::new(1, 1000, 5).ours(9, Demand::Greedy).ours(1, Demand::Idle);
    simulation.run(11 * SECOND);
    simulation.clients[9].demand = Demand::Greedy;
    simulation.run(20 * SECOND);
    let first = simulation.granted(9, 11..12);
    assert!(first >= 45, "half of an equal part at once: {first}");
    let second = simulation.granted(9, 12..15) as f64 / 3.0;
    assert!(second >= 90.0, "an equal part as soon as it is known to want it: {second}");
    let then = simulation.granted(9, 13..31) as f64 / 18.0;
    assert!((80.0..120.0).contains(&then), "{then}");
    let part = simulation.part(11..31);
    assert!((0.90..=1.05).contains(&part), "{part}");
}

#[test]
fn a_burst_of_one_client_passes_whole_while_nobody_else_wants_any() {
    for amount in [20, 100, 10_000] {
        let mut simulation = Simulation::new(1, amount, 6).ours(10, Demand::Idle);
        simulation.run(5 * SECOND + 200 * MILLI);
        let now = simulation.now + simulation.clients[3].clock;
        assert_eq!(drain(share_of(&simulation, 3), now), u64::from(amount));
    }
}

#[test]
fn a_client_of_polaris_go_and_ours_share_a_quota() {
    for jitter in [0, 10 * MILLI] {
        for ours in [60, 100, 200] {
            for go in [60, 100, 200] {
                for (seed, tick) in [(0, 1), (1, 1), (2, 5), (3, 10), (4, 10), (5, 10), (6, 10)] {
                    let mut simulation = Simulation::new(1, 100, seed);
                    simulation.tick = tick * MILLI;
                    let simulation = simulation.ours(1, Demand::Paced(ours, jitter)).go(Demand::Paced(go, jitter));
                    let part = thirty(1, simulation).part(1..PERIODS + 1);
                    // Room is left for what the other one does not tell at once, and what it overdraws is made up
                    // for; without either it is 1.05 and more.
                    let most = if ours == go { 1.01 } else { 1.035 };
                    assert!((0.95..=most).contains(&part), "{part} at {ours} and {go} a second, {jitter}, {tick} ms");
                }
            }
        }
    }
}

#[test]
fn a_limiter_that_forgot_all_has_everyone_back_within_two_periods() {
    for (seed, seen_gone) in [(0, true), (1, false), (2, true), (3, false)] {
        let mut simulation = Simulation::new(1, 1000, seed).ours(10, Demand::Greedy);
        simulation.seen_gone = seen_gone;
        simulation.run(5 * SECOND);
        (simulation.up, simulation.used) = (false, 0);
        simulation.run(2 * SECOND);
        // A limiter that only falls silent is given up by and by.
        simulation.seen_gone = true;
        simulation.run(SECOND);
        simulation.up = true;
        simulation.run(33 * SECOND);
        let alone = simulation.part(6..8);
        assert!((0.85..=1.15).contains(&alone), "each keeps to a tenth: {alone}");
        let after = simulation.part(10..40);
        assert!((0.90..=1.05).contains(&after), "{after}");
        // The first two periods with the limiter back are no feast either.
        let back = simulation.part(8..10);
        assert!((0.80..=1.25).contains(&back), "{back}");
    }
}

#[test]
fn a_counter_that_was_forgotten_within_a_period_is_counted_on() {
    let share = Share::new(total(10, 100), Failover::Local, 1);
    let (now, wall) = (20 * SECOND, 1_000_000_000);
    share.offset(wall * 1000 - now as i64, now);
    share.answered(left(100, 1), wall, now);
    take_some(&share, 40, now);
    assert_eq!(share.report(now + 50_000).unwrap().used, 40);
    share.answered(left(60, 1), wall + 60, now + 60_000);
    share.unanswered(now + 100_000);
    take_some(&share, 2, now + 100_000);
    assert_eq!(share.report(now + 200_000), None, "nobody to tell");
    share.answered(left(100, 1), wall + 300, now + 300_000);
    assert_eq!(share.report(now + 400_000).unwrap().used, 42, "another limiter is told of all");
    share.answered(left(58, 1), wall + 410, now + 410_000);
    share.unanswered(now + 420_000);
    share.answered(left(58, 1), wall + 430, now + 430_000);
    take_some(&share, 1, now + 440_000);
    assert_eq!(share.report(now + 500_000).unwrap().used, 1, "the same one is not told twice");
}

#[test]
fn without_a_limiter_a_client_keeps_to_its_part_or_lets_all_pass() {
    let now = 10 * SECOND;
    let local = Share::new(total(1, 100), Failover::Local, 1);
    assert_eq!(drain(&local, now), 100, "nobody else is known of");
    assert_eq!(drain(&local, now + SECOND), 100);
    local.answered(left(100, 8), 1_700_000_000_500, now + 2 * SECOND);
    local.unanswered(now + 2 * SECOND);
    assert_eq!(drain(&local, now + 3 * SECOND), 13, "a part of eight, rounded up");
    let small = Share::new(total(1, 3), Failover::Local, 1);
    small.answered(left(3, 8), 1_700_000_000_500, now);
    small.unanswered(now);
    assert_eq!(drain(&small, now + 2 * SECOND), 1, "never none");
    let none = Share::new(total(1, 0), Failover::Local, 1);
    assert_eq!(drain(&none, now), 0, "but of nothing");
    none.answered(left(0, 8), 1_700_000_000_500, now);
    assert_eq!(drain(&none, now) + drain(&none, now + 5 * SECOND), 0);
    let each = Share::new(QuotaTotal { per_client: true, ..total(1, 100) }, Failover::Local, 1);
    each.answered(left(800, 8), 1_700_000_000_500, now);
    each.unanswered(now);
    assert_eq!(drain(&each, now + 2 * SECOND), 100, "what is each client's own");
    let pass = Share::new(total(1, 100), Failover::Pass, 1);
    take_some(&pass, 100_000, now);
}

#[test]
fn a_client_that_joins_at_the_turn_of_a_period_has_its_part() {
    for millis in [999, 0, 1, 500] {
        let share = Share::new(total(1, 100), Failover::Local, 1);
        let now = 10 * SECOND + 1;
        share.offset(1_000_000_000_000_000 - 10 * SECOND as i64, now);
        share.answered(left(100, 4), 1_000_000_000_000 + i64::from(millis) - 1000 * i64::from(millis == 999), now);
        assert_eq!(drain(&share, now), 25, "{millis}");
    }
}

#[test]
fn a_limiter_that_does_not_answer_is_given_up_after_a_second() {
    let share = Share::new(total(10, 100), Failover::Local, 1);
    let (now, wall) = (20 * SECOND, 1_000_000_000);
    share.offset(wall * 1000 - now as i64, now);
    share.answered(left(100, 4), wall, now);
    take_some(&share, 1, now);
    assert!(share.report(now + 50_000).is_some());
    assert_eq!(share.next_report(now + 50_000), u64::MAX, "one report at a time");
    let before = drain(&share, now + 60_000);
    assert_eq!(before, 24, "a part of four was opened");
    assert_eq!(drain(&share, now + SECOND + 50_000), 0, "and is the same on its own");
    assert_eq!(drain(&share, now + 10 * SECOND), 25, "in the next period too");
    share.answered(left(99, 4), wall + 60, now + 10 * SECOND);
    assert!(share.next_report(now + 10 * SECOND) < u64::MAX, "a late answer is one");
}

#[test]
fn a_jump_of_the_limiters_clock_neither_freezes_nor_doubles_the_quota() {
    for (seed, jump) in [(0, 5_000_000), (1, -5_000_000), (2, 4_700_000), (3, -4_300_000), (4, 400_000), (5, -400_000)]
    {
        for told in [true, false] {
            let mut simulation = Simulation::new(1, 1000, seed).ours(10, Demand::Greedy);
            simulation.run(5 * SECOND);
            simulation.wall += jump;
            for client in (0..10).filter(|_| told) {
                let clock = simulation.clients[client].clock;
                share_of(&simulation, client).offset(simulation.wall - clock as i64, simulation.now + clock);
            }
            simulation.run(25 * SECOND);
            let name = format!("{jump} {told} {:?}", &simulation.tenths[40..80]);
            // Who is not told learns of it by the next answer, which comes within a period.
            let wait = if told { 11 } else { 20 };
            for tenth in 50..80 {
                let period: u64 = simulation.tenths[tenth..tenth + wait].iter().sum();
                assert!(period >= 700, "no freeze for longer than a period: {period} at {tenth}, {name}");
            }
            for tenth in 41..80 {
                let period: u64 = simulation.tenths[tenth..tenth + 10].iter().sum();
                assert!(period <= 2100, "one amount more at most: {period} at {tenth}, {name}");
            }
            let after = simulation.tenths[80..290].iter().sum::<u64>() as f64 / 21_000.0;
            assert!((0.90..=1.06).contains(&after), "{after}, {name}");
        }
    }
}

#[test]
fn an_older_clock_never_opens_an_older_period_again() {
    let share = Share::new(total(1, 100), Failover::Local, 1);
    assert_eq!(drain(&share, 10 * SECOND), 100);
    assert_eq!(drain(&share, 10 * SECOND - 3 * MILLI), 0);
    assert_eq!(share.take(10 * SECOND - 3 * MILLI), Err(RetryAfter(SECOND + 3 * MILLI)));
    assert_eq!(share.take(10 * SECOND + 400 * MILLI), Err(RetryAfter(600 * MILLI)));
    assert_eq!(share.take(11 * SECOND), Ok(()));
    assert_eq!(drain(&share, 11 * SECOND - 1), 99, "counts in the period that is open");
    share.give_back(11 * SECOND);
    assert_eq!(drain(&share, 11 * SECOND), 1);
    take_some(&share, 1, 12 * SECOND);
    share.give_back(11 * SECOND);
    assert_eq!(
        drain(&share, 12 * SECOND),
        99,
        "what was taken in a period that ended is not given back to another one"
    );
}

#[test]
fn use_of_a_period_that_ended_is_not_reported() {
    let share = Share::new(total(1, 100), Failover::Local, 1);
    let (now, wall) = (10 * SECOND, 1_000_000_000);
    share.offset(wall * 1000 - now as i64, now);
    share.answered(left(100, 1), wall, now);
    take_some(&share, 7, now + 990 * MILLI);
    take_some(&share, 1, now + SECOND);
    share.refused();
    let report = share.report(now + SECOND + 3 * MILLI).unwrap();
    assert_eq!((report.used, report.limited, report.timestamp_millis), (1, 1, wall + 1003));
    // The limiter was still in the period before, so it counted nothing.
    share.answered(left(100, 1), wall + 999, now + SECOND + 5 * MILLI);
    take_some(&share, 1, now + SECOND + 6 * MILLI);
    assert_eq!(share.report(now + SECOND + 60 * MILLI).unwrap().used, 2);
    share.answered(left(98, 1), wall + 1061, now + SECOND + 62 * MILLI);
    take_some(&share, 4, now + 2 * SECOND - 3 * MILLI);
    assert_eq!(share.report(now + 2 * SECOND - 2 * MILLI).unwrap().used, 4);
    // This time it was in the next period already.
    take_some(&share, 3, now + 2 * SECOND);
    share.answered(left(100, 1), wall + 2001, now + 2 * SECOND + 2 * MILLI);
    assert_eq!(share.report(now + 2 * SECOND + 60 * MILLI).unwrap().used, 3);
}

#[test]
fn all_that_threads_were_granted_is_reported() {
    let (amount, wall) = (u32::MAX, 1_000_020_000);
    let share = Share::new(total(60, amount), Failover::Local, 1);
    let start = 120 * SECOND;
    let clock = AtomicU64::new(start);
    let reports = AtomicU64::new(0);
    share.offset(wall * 1000 - start as i64, start);
    share.answered(left(amount.into(), 1), wall, start);
    let mut reported = 0;
    let mut report = |now: u64| {
        if let Some(report) = share.report(now) {
            reported += u64::from(report.used);
            share.answered(left(i64::from(amount) - reported as i64, 1), wall + ((now - start) / 1000) as i64, now);
            reports.fetch_add(1, Ordering::Relaxed);
        }
        reported
    };
    let take = |back: bool| {
        let now = clock.load(Ordering::Relaxed);
        share.take(now).unwrap();
        if back {
            share.give_back(now);
        }
        u64::from(!back)
    };
    let count = || {
        let while_reporting: u64 =
            (0..u64::MAX).take_while(|_| reports.load(Ordering::Relaxed) < 200).map(|round| take(round % 8 == 3)).sum();
        // What was given back after it was reported is made up for by what is taken next.
        while_reporting + (0..100).map(|_| take(false)).sum::<u64>()
    };
    let granted: u64 = thread::scope(|scope| {
        let threads = [scope.spawn(count), scope.spawn(count)];
        while reports.load(Ordering::Relaxed) < 200 {
            // Time waits for the threads, or the period would end before they did anything.
            let latest = start + 60 * MILLI * (reports.load(Ordering::Relaxed) + 1);
            let now = latest.min(clock.load(Ordering::Relaxed) + MILLI);
            clock.store(now, Ordering::Relaxed);
            report(now);
        }
        threads.into_iter().map(|thread| thread.join().unwrap()).sum()
    });
    let last = clock.load(Ordering::Relaxed) + 100 * MILLI;
    assert_eq!(report(last), granted);
}

#[test]
fn threads_that_pass_into_new_periods_grant_no_period_more_than_its_amount() {
    let share = Share::new(total(1, 1000), Failover::Local, 1);
    let clock = AtomicU64::new(10 * SECOND);
    let periods: Vec<u64> = thread::scope(|scope| {
        let threads: Vec<_> = (0..2)
            .map(|_| {
                scope.spawn(|| {
                    let mut periods = vec![0; 100];
                    for _ in 0..200_000 {
                        let now = clock.fetch_add(200, Ordering::Relaxed);
                        if let Ok(word) = share.take_in(now) {
                            periods[word.number_near(50) as usize] += 1;
                        }
                    }
                    periods
                })
            })
            .collect();
        let each: Vec<Vec<u64>> = threads.into_iter().map(|thread| thread.join().unwrap()).collect();
        (0..100).map(|at| each.iter().map(|periods| periods[at]).sum()).collect()
    });
    assert!(periods.iter().all(|granted| *granted <= 1000), "{periods:?}");
    assert!(periods[10..90].iter().filter(|granted| **granted == 1000).count() >= 70, "{periods:?}");
}

#[test]
fn a_period_is_what_a_division_says() {
    for seconds in [1, 3, 7, 10, 60, 86_400] {
        let length = seconds * SECOND;
        let periods = Periods::new(length);
        for number in [0, 1, 2, 1000, (1 << 50) / length] {
            for now in [number * length, number * length + 1, (number + 1) * length - 1] {
                assert_eq!(periods.at(now), now / length, "{now}");
            }
            assert_eq!((periods.start_of(number), periods.end_of(number)), (number * length, (number + 1) * length));
        }
        periods.place(5 * length, 9, 17);
        assert_eq!((periods.at(5 * length), periods.start_of(9)), (9, 5 * length - 17));
    }
    let wrapped = Word::new(1 << 28, 5);
    assert_eq!(wrapped.or_later((1 << 28) - 1), wrapped, "numbers wrap around");
    assert_eq!(Word::new((1 << 28) - 1, MOST).or_later(1 << 28), Word::new(1 << 28, 0));
    assert_eq!(wrapped.number_near((1 << 28) - 3), 1 << 28);
}
