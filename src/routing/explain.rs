//! Why a request gets the instances that it gets: the same plan that picks go through, told step by step.

use std::fmt;
use std::sync::Arc;

use crate::error::{Error, Result};
use crate::model::instance::Instance;
use crate::model::key::ServiceKey;
use crate::model::subset::Subset;
use crate::routing::plan::{End, Fork, Maker, Node};
use crate::routing::router::RouteRequest;
use crate::routing::switch::{Alternative, Choice, Ways};

/// How a request is routed at this moment, as plain data: every way that it may take through the chain, and where each
/// ends. Only destinations that share calls by weight make more than one.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Explanation {
    /// The service that is called.
    pub service: ServiceKey,
    /// The service that calls, if it is known.
    pub caller: Option<ServiceKey>,
    /// How many instances the service has.
    pub instances: usize,
    /// The ways, in the order of the destinations.
    pub routes: Vec<ExplainedRoute>,
}

/// One way through the chain.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct ExplainedRoute {
    /// The share of such requests that take it; all shares together are 1.
    pub share: f64,
    /// What each router did, in the order of the chain.
    pub steps: Vec<ExplainedStep>,
    /// What is picked from; or the refusal that a pick gets.
    pub outcome: Result<Vec<Instance>>,
}

/// What one router did.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ExplainedStep {
    /// The router, by its name in the configuration.
    pub router: Arc<str>,
    /// How many instances came to it.
    pub given: usize,
    /// How many it left.
    pub left: usize,
    /// Why, line by line; empty where there is nothing to say.
    pub why: Vec<String>,
}

/// Walks a plan for one request.
struct Walk<'a, L> {
    request: &'a RouteRequest<'a>,
    maker: &'a Maker<'a, L>,
    subset: &'a dyn Fn(&L) -> &Subset,
    routes: Vec<ExplainedRoute>,
}

/// All ways of `request` through the plan.
pub(crate) fn explain<L>(
    plan: &Node<L>,
    request: &RouteRequest<'_>,
    maker: &Maker<'_, L>,
    subset: &dyn Fn(&L) -> &Subset,
) -> Vec<ExplainedRoute> {
    let mut walk = Walk { request, maker, subset, routes: Vec::new() };
    walk.node(plan, Vec::new(), 1.0);
    walk.routes
}

impl<L> Walk<'_, L> {
    fn node(&mut self, node: &Node<L>, mut steps: Vec<ExplainedStep>, share: f64) {
        let aside = node.asides.iter().find(|aside| self.request.pick.asks.has(aside.asks));
        let until = aside.map_or(node.steps.len(), |aside| aside.before);
        steps.extend(node.steps.iter().take(until).map(|step| ExplainedStep {
            router: self.maker.chain.name(step.router),
            given: step.given,
            left: step.left,
            why: step.note.iter().map(ToString::to_string).collect(),
        }));
        if let Some(aside) = aside {
            return self.fork(&aside.fork, steps, share);
        }
        match &node.end {
            End::Leaf(leaf) => {
                let instances = (self.subset)(leaf).iter().cloned().collect();
                self.routes.push(ExplainedRoute { share, steps, outcome: Ok(instances) });
            }
            End::Refused { error, router } => self.refused(error.clone(), *router, node.given, steps, share),
            End::PassOn => {}
            End::Fork(fork) => self.fork(fork, steps, share),
        }
    }

    fn refused(&mut self, error: Error, router: usize, given: usize, mut steps: Vec<ExplainedStep>, share: f64) {
        let given = steps.last().map_or(given, |step| step.left);
        let name = self.maker.chain.name(router);
        // A fork has told its part already; and no router is to blame for a service that has nobody.
        if router != usize::MAX && steps.last().is_none_or(|step| step.router != name) {
            let router = name;
            steps.push(ExplainedStep { router, given, left: 0, why: vec![error.to_string()] });
        }
        self.routes.push(ExplainedRoute { share, steps, outcome: Err(error) });
    }

    fn fork(&mut self, fork: &Fork<L>, steps: Vec<ExplainedStep>, share: f64) {
        let mut why: Vec<String> = fork.note.iter().map(ToString::to_string).collect();
        let request = fork.of(self.request);
        let mut passed = None;
        loop {
            let Ways { why: seen, ways } = fork.switch.ways(&request, passed);
            why.extend(seen);
            let total: u64 = ways.iter().map(|way| way.weight).sum();
            // A late branch is the only way, and may turn out to have nothing: then the walk goes on behind it.
            if let [Alternative { choice: Ok(Choice::Late(token)), .. }] = ways.as_slice() {
                let found = fork.late(*token, &request, self.maker);
                if matches!(found.end, End::PassOn) {
                    why.push("its destinations have no instance for this call".to_owned());
                    passed = Some(*token);
                    continue;
                }
                return self.late(&found, fork, steps, why, share);
            }
            for Alternative { choice, weight, name } in ways {
                #[allow(clippy::cast_precision_loss, reason = "weights are small")]
                let part = share * weight as f64 / total.max(1) as f64;
                let why = why.iter().cloned().chain(name).collect();
                match choice {
                    Ok(Choice::Branch(at)) => self.branch(fork, at, steps.clone(), why, part),
                    Ok(Choice::Late(token)) => {
                        let found = fork.late(token, &request, self.maker);
                        self.late(&found, fork, steps.clone(), why, part);
                    }
                    Err(error) => self.end_at(fork, error, steps.clone(), why, part),
                }
            }
            return;
        }
    }

    fn branch(&mut self, fork: &Fork<L>, at: usize, mut steps: Vec<ExplainedStep>, why: Vec<String>, share: f64) {
        let Some(node) = fork.branches.get(at) else {
            let error = Error::new(crate::error::ErrorKind::Plugin, "a router chose a branch that it did not compile");
            return self.end_at(fork, error, steps, why, share);
        };
        // A refusal among the branches of a router is its own, and leaves nothing.
        if let End::Refused { error, router } = &node.end
            && *router == fork.router
        {
            return self.end_at(fork, error.clone(), steps, why, share);
        }
        steps.push(self.step(fork, node.given, why));
        self.node(node, steps, share);
    }

    /// A late branch tells itself what its router did.
    fn late(&mut self, node: &Node<L>, fork: &Fork<L>, steps: Vec<ExplainedStep>, why: Vec<String>, share: f64) {
        if let End::Refused { error, .. } = &node.end
            && node.steps.is_empty()
        {
            return self.end_at(fork, error.clone(), steps, why, share);
        }
        let first = self.routes.len();
        let at = steps.len();
        self.node(node, steps, share);
        for route in self.routes.iter_mut().skip(first) {
            if let Some(step) = route.steps.get_mut(at) {
                step.why.splice(0..0, why.iter().cloned());
            }
        }
    }

    fn end_at(
        &mut self,
        fork: &Fork<L>,
        error: Error,
        mut steps: Vec<ExplainedStep>,
        mut why: Vec<String>,
        share: f64,
    ) {
        why.push(error.to_string());
        steps.push(self.step(fork, 0, why));
        self.routes.push(ExplainedRoute { share, steps, outcome: Err(error) });
    }

    fn step(&self, fork: &Fork<L>, left: usize, why: Vec<String>) -> ExplainedStep {
        ExplainedStep { router: self.maker.chain.name(fork.router), given: fork.given.len().get(), left, why }
    }
}

impl Explanation {
    /// All instances that the request may get, each once, ordered by id.
    #[must_use]
    pub fn support(&self) -> Vec<&Instance> {
        let mut all: Vec<_> = self.routes.iter().filter_map(|route| route.outcome.as_ref().ok()).flatten().collect();
        all.sort_by(|a, b| a.id().cmp(b.id()));
        all.dedup_by(|a, b| a.id() == b.id());
        all
    }
}

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.caller {
            Some(caller) => writeln!(f, "{caller} calls {}: {} instances", self.service, self.instances)?,
            None => writeln!(f, "somebody calls {}: {} instances", self.service, self.instances)?,
        }
        self.routes.iter().try_for_each(|route| write!(f, "{route}"))
    }
}

impl fmt::Display for ExplainedRoute {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.share < 1.0 {
            writeln!(f, "{:.1} % of such calls:", self.share * 100.0)?;
        }
        self.steps.iter().try_for_each(|step| writeln!(f, "  {step}"))?;
        match &self.outcome {
            Ok(instances) => writeln!(f, "  = picked from {}", FirstOf(instances)),
            // The step that refused has said why.
            Err(error) if self.steps.last().is_none_or(|step| step.left > 0) => writeln!(f, "  = refused: {error}"),
            Err(_) => writeln!(f, "  = refused"),
        }
    }
}

impl fmt::Display for ExplainedStep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.why.is_empty() {
            return write!(f, "{:<18} {:>6} -> {}", self.router, self.given, self.left);
        }
        write!(f, "{:<18} {:>6} -> {:<6}", self.router, self.given, self.left)?;
        for (n, line) in self.why.iter().enumerate() {
            if n == 0 { write!(f, " {line}")? } else { write!(f, "\n{:38}{line}", "")? }
        }
        Ok(())
    }
}

/// The first few of many.
struct FirstOf<'a>(&'a [Instance]);

impl fmt::Display for FirstOf<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const SHOWN: usize = 5;
        for (n, instance) in self.0.iter().take(SHOWN).enumerate() {
            write!(f, "{}{instance}", if n == 0 { "" } else { ", " })?;
        }
        match self.0.len().checked_sub(SHOWN) {
            Some(more) if more > 0 => write!(f, " and {more} more"),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;
    use crate::model::health::{Breaker, HealthView, Slot};
    use crate::model::request::instance::Pick;
    use crate::model::subset::fixture::subset;
    use crate::routing::{Build, Chain, Recover, Surroundings};

    #[test]
    fn a_refusal_that_is_one_of_several_branches_leaves_nothing_and_says_why() {
        let slot = Slot::default();
        slot.set_breaker(Breaker::Open);
        let health = Arc::new(HealthView::of(&[Arc::new(slot)]));
        let surroundings = Surroundings { health, ..Surroundings::default() };
        let chain = Chain::new(vec![("recoverRouter".into(), Arc::new(Recover::new(false, 0.0)))]);
        let maker = Maker { chain: &chain, surroundings: &surroundings, leaf: &Ok, crowded: &|| {} };
        let plan = Build::new(&maker, subset(1, |_, _| {})).run();
        let told = |pick: &Pick<'_>| {
            explain(&plan, &RouteRequest { pick, entropy: 0 }, &maker, &|leaf: &Subset| leaf).remove(0)
        };
        let route = told(&Pick::new());
        let error = route.outcome.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NoInstances);
        let [step] = route.steps.as_slice() else { panic!("one router: {:?}", route.steps) };
        assert_eq!((step.given, step.left, step.why.as_slice()), (1, 0, [error.to_string()].as_slice()));
        assert_eq!(told(&Pick::new().include_broken()).outcome.unwrap().len(), 1);
    }
}
