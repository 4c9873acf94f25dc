//! What holds for every policy, and what hashing promises.

use std::collections::HashMap;
use std::time::Duration;

use proptest::prelude::*;

use crate::balance::{
    Criteria, Hash, L5cst, LeastConnection, LoadBalancer, Maglev, PowerOfTwo, RingHash, ShortestResponseTime,
    WeightedRandom, WeightedRoundRobin,
};
use crate::config::PluginOptions;
use crate::model::call::Outcome;
use crate::model::subset::Subset;
use crate::model::subset::fixture::{loaded, subset, weighted};
use crate::util::murmur3::mix64;

fn ring(vnodes: &str) -> RingHash {
    RingHash::from_options(&PluginOptions::new().with("vnodeCount", vnodes)).unwrap()
}

fn maglev(size: &str) -> Maglev {
    Maglev::from_options(&PluginOptions::new().with("tableSize", size)).unwrap()
}

fn all() -> Vec<Box<dyn LoadBalancer>> {
    vec![
        Box::new(WeightedRandom),
        Box::new(WeightedRoundRobin),
        Box::new(PowerOfTwo),
        Box::new(LeastConnection),
        Box::new(ShortestResponseTime),
        Box::new(ring("10")),
        Box::new(maglev("251")),
        Box::new(Hash),
        Box::new(L5cst),
    ]
}

/// Weights of all sorts, and the load on each.
fn instances(weights: impl Strategy<Value = u32>) -> impl Strategy<Value = Vec<(u32, u32, u64)>> {
    proptest::collection::vec((weights, 0u32..4, 0u64..50), 1..60)
}

fn with_load(instances: &[(u32, u32, u64)]) -> Subset {
    let weights: Vec<u32> = instances.iter().map(|(weight, ..)| *weight).collect();
    loaded(&weights, |place, slot| {
        let (_, calls, millis) = instances[place];
        (0..calls).for_each(|_| slot.enter());
        if millis > 0 {
            slot.record(Outcome::Success(0), Duration::from_millis(millis));
        }
    })
}

/// One instance for each weight, each on a port of its own, as l5cst tells them apart.
fn apart(weights: &[u32]) -> Subset {
    subset(weights.len(), |place, parts| {
        parts.port = 8000 + u32::try_from(place).unwrap();
        parts.weight = weights[place];
    })
}

/// How often each place is chosen, in per mille, for as many keys and as much chance.
fn shares(balancer: &dyn LoadBalancer, subset: &Subset) -> Vec<u64> {
    const PICKS: u64 = 20_000;
    let selector = balancer.prepare(subset).unwrap();
    let mut counts = vec![0; subset.len().get()];
    for pick in 0..PICKS {
        let key = pick.to_le_bytes();
        counts[selector.select(subset, &Criteria::new(mix64(pick)).with_hash_key(&key))] += 1;
    }
    counts.iter().map(|count| count * 1000 / PICKS).collect()
}

/// The instance of each of a thousand keys.
fn owners<'s>(balancer: &dyn LoadBalancer, subset: &'s Subset) -> Vec<&'s str> {
    let selector = balancer.prepare(subset).unwrap();
    let keys = (0..1000u32).map(u32::to_le_bytes);
    let place = |key: [u8; 4]| selector.select(subset, &Criteria::new(0).with_hash_key(&key));
    keys.map(|key| subset.instance(place(key)).unwrap().id().as_str()).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn every_choice_and_every_step_is_in_range_and_has_a_weight(
        given in instances(prop_oneof![Just(0u32), 0u32..3, 0u32..300, Just(1000)]),
        entropy: u64,
        key in proptest::collection::vec(any::<u8>(), 0..20),
        value: u64,
    ) {
        let subset = with_load(&given);
        let weightless = given.iter().all(|(weight, ..)| *weight == 0);
        for balancer in all() {
            let selector = balancer.prepare(&subset).unwrap();
            for criteria in [Criteria::new(entropy).with_hash_key(&key), Criteria::new(!entropy).with_hash_value(value)] {
                let way = [1, 2, 3, 9, 250, 251, usize::MAX].map(|step| selector.walk(&subset, &criteria, step));
                for place in [Some(selector.select(&subset, &criteria))].into_iter().chain(way).flatten() {
                    prop_assert!(place < given.len(), "{balancer:?} chose {place}");
                    prop_assert!(weightless || given[place].0 > 0, "{balancer:?} chose {place} of weight 0");
                }
            }
        }
    }

    #[test]
    fn ways_on_rings_and_tables_come_to_everybody_and_end_all_round(
        weights in proptest::collection::vec(2u32..20, 1..12), value: u64
    ) {
        let subset = apart(&weights);
        let criteria = Criteria::new(0).with_hash_value(value);
        for balancer in [&ring("40") as &dyn LoadBalancer, &maglev("1009"), &Hash, &L5cst] {
            let selector = balancer.prepare(&subset).unwrap();
            let mut way: Vec<_> = (1..).map_while(|step| selector.walk(&subset, &criteria, step)).collect();
            way.push(selector.select(&subset, &criteria));
            way.sort_unstable();
            way.dedup();
            prop_assert_eq!(way, (0..weights.len()).collect::<Vec<_>>(), "{:?}", balancer);
        }
    }

    #[test]
    fn when_an_instance_leaves_a_ring_only_its_keys_move(count in 2usize..20, leaving in 0usize..20) {
        let leaving = leaving % count;
        let before = apart(&vec![100; count]);
        let after = before.filter_at(|position, _| position as usize != leaving).unwrap();
        let gone = before.instance(leaving).unwrap().id().as_str();
        for balancer in [&ring("10") as &dyn LoadBalancer, &L5cst] {
            for (was, is) in owners(balancer, &before).into_iter().zip(owners(balancer, &after)) {
                prop_assert!(was == is || was == gone, "{balancer:?}: {was} became {is}, and {gone} left");
            }
        }
    }
}

#[test]
fn when_an_instance_leaves_a_table_few_other_keys_move() {
    for count in [4, 10, 19] {
        let before = weighted(&vec![100; count]);
        let after = before.filter_at(|position, _| position > 0).unwrap();
        let gone = before.instance(0).unwrap().id().as_str();
        let (was, is) = (owners(&maglev("65537"), &before), owners(&maglev("65537"), &after));
        let moved = was.iter().zip(&is).filter(|(was, is)| was != is && **was != gone).count();
        assert!(moved < 100, "{moved} of 1000 keys moved without need");
    }
}

#[test]
fn shares_are_near_the_weights() {
    let weights = [1, 2, 3, 4, 0, 10];
    let subset = weighted(&weights);
    let policies: [(&dyn LoadBalancer, u64); 7] = [
        (&WeightedRandom, 12),
        (&WeightedRoundRobin, 1),
        (&PowerOfTwo, 12),
        (&LeastConnection, 12),
        (&maglev("65537"), 12),
        // The first has one part more and the last one part less.
        (&Hash, 62),
        (&ring("1000"), 40),
    ];
    for (balancer, tolerance) in policies {
        let shares = shares(balancer, &subset);
        for (share, weight) in shares.iter().zip(weights) {
            assert!(share.abs_diff(u64::from(weight) * 50) <= tolerance, "{balancer:?}: {shares:?}");
        }
    }
}

#[test]
fn the_ring_of_l5_follows_weights_of_the_usual_size() {
    let shares = shares(&L5cst, &apart(&[100, 300, 600]));
    for (share, expected) in shares.iter().zip([100u64, 300, 600]) {
        assert!(share.abs_diff(expected) <= 60, "{shares:?}");
    }
}

#[test]
fn instances_on_one_address_share_the_points_of_l5_with_the_first() {
    // Equal hosts and ports collide at every point: all belong to the heaviest, of equals to the first.
    let owners = |weights: &[u32]| {
        let subset = weighted(weights);
        let selector = L5cst.prepare(&subset).unwrap();
        let places =
            (0..100u32).map(|key| selector.select(&subset, &Criteria::new(0).with_hash_value(u64::from(key) << 25)));
        places.fold(HashMap::new(), |mut counts: HashMap<usize, u32>, place| {
            *counts.entry(place).or_default() += 1;
            counts
        })
    };
    assert_eq!(owners(&[5, 5]), HashMap::from([(0, 100)]));
    assert_eq!(owners(&[5, 6]), HashMap::from([(1, 100)]));
}

#[test]
fn values_below_the_first_point_and_above_the_last_one_wrap_around() {
    let subset = weighted(&[100; 5]);
    for balancer in [&ring("10") as &dyn LoadBalancer, &L5cst] {
        let selector = balancer.prepare(&subset).unwrap();
        let place = |value| selector.select(&subset, &Criteria::new(0).with_hash_value(value));
        assert_eq!(place(0), place(u64::MAX), "{balancer:?}");
    }
}

#[test]
fn rings_that_would_fill_the_memory_are_refused_with_what_to_do() {
    let heavy = weighted(&[10_000_000, 1]);
    let error = L5cst.prepare(&heavy).err().unwrap().to_string();
    assert!(error.contains("10000001 points") && error.contains("ringHash"), "{error}");
    let many = weighted(&[1; 11]);
    let error = ring("1000000").prepare(&many).err().unwrap().to_string();
    assert!(error.contains("11000000 points") && error.contains("vnodeCount"), "{error}");
}

#[test]
fn options_are_read_and_wrong_ones_refused_with_what_is_right() {
    let options = |key: &str, value: &str| PluginOptions::new().with(key, value);
    let refusal = |error: crate::error::Error| {
        assert_eq!(error.kind(), crate::error::ErrorKind::InvalidConfig);
        error.to_string()
    };
    for (wrong, right) in [("0", "1 to 1000000"), ("1000001", "1 to 1000000"), ("many", "expected u32")] {
        let text = refusal(RingHash::from_options(&options("vnodeCount", wrong)).unwrap_err());
        assert!(text.contains("vnodeCount") && text.contains(right), "{text}");
    }
    for (wrong, right) in [("65536", "65537"), ("1", "2 to 5000011"), ("9", "11"), ("5000012", "2 to 5000011")] {
        let text = refusal(Maglev::from_options(&options("tableSize", wrong)).unwrap_err());
        assert!(text.contains("tableSize") && text.contains(right), "{text}");
    }
    assert!(Maglev::from_options(&options("tableSize", "5000011")).is_ok());
    let md5 = options("hashFunction", "md5");
    for error in [
        RingHash::from_options(&md5).unwrap_err(),
        Maglev::from_options(&md5).unwrap_err(),
        Hash::from_options(&md5).unwrap_err(),
    ] {
        assert!(refusal(error).contains("murmur3"));
    }
}

#[test]
fn the_smallest_table_serves() {
    for size in ["2", "3"] {
        let subset = weighted(&[1, 1, 1, 1, 1]);
        let selector = maglev(size).prepare(&subset).unwrap();
        assert!((0..6).all(|value| selector.select(&subset, &Criteria::new(0).with_hash_value(value)) < 5));
    }
}
