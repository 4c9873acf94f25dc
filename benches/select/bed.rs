//! What is picked from: the same instances for the library and for all that it is compared with.

use std::collections::HashMap;
use std::hint::black_box;
use std::sync::Arc;

use pingora_load_balancing::selection::Random;
use polarismesh::testing::bench::{Fed, pick_with};
use polarismesh::{ConsumerApi, GetOneInstance, LabelSet, Pick, ServiceHandle};
use polarismesh_benches::data;
use polarismesh_benches::floor::{Floor, Item};
use polarismesh_benches::row::Row;
use polarismesh_benches::rules::{self, Label, Routing, Web};
use polarismesh_benches::service::{self, at_once, explain, loaded, routed};
use tokio::runtime::Runtime;

use crate::peers::{MOST_OF_PINGORA, Pingora};
use crate::reference::Chain;

/// The ways of picking that are measured. What is `Routed` goes by 3 rules of 3 labels each and to the zone of the call,
/// in a service with an open breaker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Way {
    /// F among all instances.
    Floor,
    /// F without handing anything out.
    FloorKept,
    /// F over a list laid out for it.
    FloorCompact,
    /// F among the instances that routed calls may come to, in their shares.
    FloorRouted,
    FloorRoutedKept,
    /// P, pingora's weighted random.
    Pingora,
    Chain,
    ChainRouted,
    Handle,
    HandleKept,
    Name,
    GetOne,
    HandleRouted,
    HandleRoutedKept,
    /// With the labels of a request over HTTP, where they stand.
    HandleRoutedWeb,
    NameRouted,
    GetOneRouted,
}

impl Way {
    pub fn text(self) -> &'static str {
        match self {
            Self::Floor => "F",
            Self::FloorKept => "F without the clone",
            Self::FloorCompact => "F over a list of its own",
            Self::FloorRouted => "F among what rules lead to",
            Self::FloorRoutedKept => "F among what rules lead to, without the clone",
            Self::Pingora => "pingora-load-balancing, random",
            Self::Chain => "reference chain, no rules",
            Self::ChainRouted => "reference chain, rules",
            Self::Handle => "by handle, no rules",
            Self::HandleKept => "by handle, no rules, nothing handed out",
            Self::Name => "by name, no rules",
            Self::GetOne => "get_one_instance, no rules",
            Self::HandleRouted => "by handle, rules",
            Self::HandleRoutedKept => "by handle, rules, nothing handed out",
            Self::HandleRoutedWeb => "by handle, rules, labels of an HTTP request",
            Self::NameRouted => "by name, rules",
            Self::GetOneRouted => "get_one_instance, rules",
        }
    }

    /// The F that it is held to.
    pub fn floor(self) -> Self {
        match self {
            Self::HandleRouted | Self::HandleRoutedWeb | Self::NameRouted | Self::GetOneRouted => Self::FloorRouted,
            Self::HandleRoutedKept => Self::FloorRoutedKept,
            Self::HandleKept => Self::FloorKept,
            _ => Self::Floor,
        }
    }
}

/// So many instances, loaded and built into all that picks.
pub struct Bed {
    pub instances: usize,
    plain: Side,
    routed: Side,
    compact: Floor<Arc<Item>>,
    pingora: Pingora<Random>,
    chain: Chain,
    chain_routed: Chain,
    call: HashMap<Label, String>,
    labels: LabelSet,
    web: Web,
}

/// A service, and F for what calls to it come to.
struct Side {
    fed: Fed,
    consumer: ConsumerApi,
    handle: ServiceHandle,
    floor: Floor,
}

impl Bed {
    pub fn new(runtime: &Runtime, instances: usize) -> Self {
        let labels = rules::labels();
        let plain = Side::new(loaded(instances, runtime), &labels, runtime);
        let chain = Chain::plain(instances);
        Self {
            instances,
            routed: Side::new(routed(instances, &Routing::by(3), runtime), &labels, runtime),
            compact: Floor::compact(&plain.handle),
            plain,
            pingora: runtime.block_on(Pingora::new(instances.min(MOST_OF_PINGORA))),
            chain_routed: chain.routed(&Routing::by(3)),
            chain,
            call: rules::CALL.map(|(label, value)| (label, value.to_owned())).into(),
            labels,
            web: rules::web(),
        }
    }

    pub fn end(self, runtime: &Runtime) {
        service::end(self.plain.fed, runtime);
        service::end(self.routed.fed, runtime);
    }

    /// How many of the instances this way picks from.
    pub fn instances(&self, way: Way) -> usize {
        if way == Way::Pingora { self.instances.min(MOST_OF_PINGORA) } else { self.instances }
    }

    /// This way of picking, ready to be measured.
    pub fn row(&self, way: Way) -> Row<'_> {
        let Self { plain, routed, labels, .. } = self;
        match way {
            Way::Floor => self.of(|| plain.floor.pick()),
            Way::FloorKept => self.of(|| plain.floor.pick_with(|instance| instance.port())),
            Way::FloorCompact => self.of(|| self.compact.pick()),
            Way::FloorRouted => self.of(|| routed.floor.pick()),
            Way::FloorRoutedKept => self.of(|| routed.floor.pick_with(|instance| instance.port())),
            Way::Pingora => self.of(|| self.pingora.pick(&[])),
            Way::Chain => self.of(|| self.chain.pick(&self.call)),
            Way::ChainRouted => self.of(|| self.chain_routed.pick(&self.call)),
            Way::Handle => self.of(|| plain.handle.pick(&Pick::new()).expect("an instance")),
            Way::HandleKept => self.of(|| kept(plain, &Pick::new())),
            Way::Name => self.of(|| plain.consumer.pick(NAME, &Pick::new()).expect("an instance")),
            Way::GetOne => self.of(|| at_once(plain.consumer.get_one_instance(NAME))),
            Way::HandleRouted => self.of(|| routed.handle.pick(&Pick::new().labels(labels)).expect("an instance")),
            Way::HandleRoutedKept => self.of(|| kept(routed, &Pick::new().labels(labels))),
            Way::HandleRoutedWeb => {
                self.of(|| routed.handle.pick(&Pick::new().labels(&self.web)).expect("an instance"))
            }
            Way::NameRouted => {
                self.of(|| routed.consumer.pick(NAME, &Pick::new().labels(labels)).expect("an instance"))
            }
            Way::GetOneRouted => self.of(move || {
                at_once(routed.consumer.get_one_instance(GetOneInstance::new(NAME.0, NAME.1).labels(labels)))
            }),
        }
    }

    fn of<'a, T>(&self, pick: impl Fn() -> T + Send + Sync + 'a) -> Row<'a> {
        Row::new(self.instances, pick)
    }

    /// That each way of picking does what it is there for. Setting up has compared the routes themselves.
    pub fn check(&self) {
        for _ in 0..100 {
            let picked = self.chain_routed.pick(&self.call);
            assert_eq!(picked.location[1], rules::FROM[1], "a pick of the chain is in the zone of the call");
            assert_eq!(picked.metadata["env"], "prod", "it is one that the rule leads to");
        }
        let (routed, groups) = (&self.routed, rules::groups(self.instances, &Routing::by(3)));
        let (labels, web) = (Pick::new().labels(&self.labels), Pick::new().labels(&self.web));
        let mut ids: Vec<&str> = groups.iter().flat_map(|(_, group)| group).map(String::as_str).collect();
        ids.sort_unstable();
        for _ in 0..1_000 {
            let by_handle = [&labels, &web].map(|pick| routed.handle.pick(pick).expect("an instance"));
            let by_name = routed.consumer.pick(NAME, &labels).expect("an instance");
            let request = GetOneInstance::new(NAME.0, NAME.1).labels(&self.labels);
            let one = at_once(routed.consumer.get_one_instance(request));
            for picked in by_handle.into_iter().chain([by_name, one, routed.floor.pick()]) {
                assert!(ids.binary_search(&picked.id().as_str()).is_ok(), "{picked} is not where the rule leads to");
            }
        }
    }
}

impl Side {
    fn new(fed: Fed, labels: &LabelSet, runtime: &Runtime) -> Self {
        let consumer = fed.context().consumer();
        let handle = consumer.service(data::key());
        Self { floor: Floor::among(&runtime.block_on(explain(&fed, labels))), handle, consumer, fed }
    }
}

const NAME: (&str, &str) = ("default", "bench");

/// A pick that hands nothing out: what was picked is looked at.
#[inline]
fn kept(side: &Side, pick: &Pick<'_>) -> u16 {
    pick_with(&side.handle, pick, |instance| black_box(instance.port())).expect("an instance")
}
