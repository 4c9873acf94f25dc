//! Any sequence of answers and losses: what must hold whatever the control plane does.

use proptest::prelude::*;

use super::*;
use crate::model::snapshot::Update;

#[derive(Debug, Clone)]
enum Step {
    Holds(usize),
    SameAgain,
    NotFound,
    Fails,
    Unchanged,
    Down,
    Up,
    Passes(u64),
    Reads,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => (0usize..12).prop_map(Step::Holds),
        1 => Just(Step::SameAgain),
        2 => Just(Step::NotFound),
        1 => Just(Step::Fails),
        3 => Just(Step::Unchanged),
        1 => Just(Step::Down),
        1 => Just(Step::Up),
        3 => (1u64..5).prop_map(Step::Passes),
        2 => Just(Step::Reads),
    ]
}

/// What a reader holds who applied all updates.
#[derive(Debug, Default)]
struct Reader {
    list: Option<Vec<String>>,
}

impl Reader {
    async fn catch_up(&mut self, watch: &mut Watch<ServiceInstances>) {
        while let Ok(Some(update)) = tokio::time::timeout(Duration::from_millis(1), watch.next()).await {
            if let Update::Current(list) = update {
                self.list = Some(ids(&list));
            }
        }
    }
}

async fn run(steps: Vec<Step>) {
    let bench = Bench::new();
    let entry = bench.registry.entry(&key());
    let mut watch = bench.registry.watch_instances(&key().service);
    let (mut reader, mut revision, mut newest) = (Reader::default(), 0, 0);
    for step in steps {
        let (before, presented) = (bench.ids(&key()), bench.writer.revision(&key()));
        let mut next = || {
            revision += 1;
            format!("r{revision}")
        };
        match step {
            Step::Holds(n) => {
                newest = n;
                let name = next();
                bench.writer.apply(&key(), many(&name, n));
                assert_eq!(bench.writer.revision(&key()).as_str(), name, "taken, served or not");
                let known = before.as_ref().map_or(0, Vec::len);
                if n >= known {
                    assert_eq!(bench.ids(&key()).map(|ids| ids.len()), Some(n), "a good answer is served at once");
                    assert!(entry.freshness(Instant::now()).is_some_and(|f| f.age.is_zero()));
                }
            }
            Step::SameAgain => drop(bench.writer.apply(&key(), many(&next(), newest))),
            Step::NotFound => drop(bench.writer.apply(&key(), not_found())),
            Step::Fails => {
                assert!(!bench.writer.apply(&key(), failed(ErrorKind::Server)));
                assert_eq!(bench.ids(&key()), before, "a failure takes nothing away");
                assert_eq!(bench.writer.revision(&key()), presented);
            }
            Step::Unchanged => drop(bench.writer.apply(&key(), Answer::Unchanged)),
            Step::Down => {
                bench.down();
                assert_eq!(bench.ids(&key()), before, "a lost link takes nothing away");
                assert!(entry.freshness(Instant::now()).is_none_or(|freshness| freshness.stale));
            }
            Step::Up => bench.up(),
            Step::Passes(seconds) => tokio::time::advance(SECOND * u32::try_from(seconds).unwrap()).await,
            Step::Reads => reader.catch_up(&mut watch).await,
        }
    }
    reader.catch_up(&mut watch).await;
    match entry.state() {
        EntryState::Ready => assert_eq!(reader.list, bench.ids(&key()), "a watch ends on the final state"),
        EntryState::NotFound(_) => assert_eq!(reader.list.unwrap_or_default(), Vec::<String>::new()),
        EntryState::Loading | EntryState::Failed(_) => assert_eq!(reader.list, None),
    }
    // Whatever happened: a control plane that is well again is believed at once.
    bench.up();
    bench.writer.apply(&key(), many("last", 12));
    assert_eq!(bench.ids(&key()).unwrap().len(), 12);
    assert!(!bench.stale(&key()) && bench.registry.health().troubles.is_empty());
}

proptest! {
    #[test]
    fn whatever_the_control_plane_does_nothing_good_is_lost_and_every_watch_ends_on_the_final_state(
        steps in proptest::collection::vec(step(), 1..60),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
        runtime.block_on(run(steps));
    }
}
