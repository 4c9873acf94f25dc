//! Builds plans, one router on one subset at a time.
//!
//! Compiling a large service takes long, and who does it wants to let other tasks run in between. So the work is a list of
//! jobs and not a recursion: [`step`](Build::step) does one, and whoever drives it pauses where it likes.

use std::sync::Arc;

use crate::error::{Error, ErrorKind, Result};
use crate::model::request::asks::Asks;
use crate::model::subset::Subset;
use crate::routing::memo::Memo;
use crate::routing::plan::{Aside, End, Fork, Maker, Node, Step};
use crate::routing::router::{Routed, Way};
use crate::routing::switch::Switch;

/// A plan in the making.
pub(crate) struct Build<'a, L> {
    maker: &'a Maker<'a, L>,
    jobs: Vec<Job>,
    /// Whoever branches stands before its branches.
    parts: Vec<Part<L>>,
    fault: Option<Error>,
}

/// A subset that the router at `depth` is to narrow, for the part at `at`.
struct Job {
    at: usize,
    depth: usize,
    /// How many instances it began with.
    given: usize,
    subset: Subset,
    steps: Vec<Step>,
}

enum Part<L> {
    /// Not there yet.
    Open,
    Done(Node<L>),
    Fork {
        given: usize,
        steps: Box<[Step]>,
        fork: Head,
        branches: Vec<usize>,
    },
}

/// A fork without its branches.
struct Head {
    router: usize,
    /// Which calls look at it, if not all: the first branch is that of the others.
    asks: Option<Asks>,
    switch: Arc<dyn Switch>,
    given: Subset,
    note: Option<Arc<str>>,
}

impl Head {
    /// The place that the fork is at, with its branches behind it.
    fn join<L>(self, given: usize, steps: Box<[Step]>, mut branches: Vec<Node<L>>) -> Node<L> {
        let Self { router, asks, switch, given: subset, note } = self;
        let came = subset.len().get();
        let fork = |branches: Vec<Node<L>>, note| Fork {
            router,
            switch,
            given: subset,
            branches: branches.into(),
            late: Memo::default(),
            note,
        };
        let Some(asks) = asks else {
            let end = End::Fork(Box::new(fork(branches, note)));
            return Node { given, steps, asides: Box::default(), end };
        };
        // Who does not ask walks on as if there were no fork: all that lies behind it moves up to here.
        let plain = branches.remove(0);
        let before = steps.len();
        let refused = matches!(plain.end, End::Refused { router: by, .. } if by == router);
        let step = || Step { router, given: came, left: plain.given, note: note.clone() };
        let passed = (!refused).then(step);
        let aside = Aside { asks, before, fork: fork(branches, note) };
        let later = plain.asides.into_iter().map(|aside| Aside { before: aside.before + before + 1, ..aside });
        Node {
            given,
            asides: [aside].into_iter().chain(later).collect(),
            steps: steps.into_iter().chain(passed).chain(plain.steps).collect(),
            end: plain.end,
        }
    }
}

impl Job {
    fn new(at: usize, depth: usize, subset: Subset) -> Self {
        Self { at, depth, given: subset.len().get(), subset, steps: Vec::new() }
    }
}

impl<'a, L> Build<'a, L> {
    /// The plan of `subset`, from the first router on.
    pub(crate) fn new(maker: &'a Maker<'a, L>, subset: Subset) -> Self {
        let job = Job::new(0, 0, subset);
        Self { maker, jobs: vec![job], parts: vec![Part::Open], fault: None }
    }

    /// The plan of what `router` made of `given` later on.
    pub(crate) fn late(maker: &'a Maker<'a, L>, router: usize, given: &Subset, routed: Routed) -> Self {
        let mut build = Self { maker, jobs: Vec::new(), parts: vec![Part::Open], fault: None };
        build.take(Job::new(0, router, given.clone()), routed);
        build
    }

    /// Does one piece of work and returns how many instances it looked at; `None` when there is none left.
    pub(crate) fn step(&mut self) -> Option<usize> {
        let job = self.jobs.pop()?;
        let work = job.subset.len().get();
        match self.maker.chain.router(job.depth) {
            Some(router) => match router.compile(&job.subset, self.maker.surroundings) {
                Ok(routed) => self.take(job, routed),
                Err(error) => self.refuse(job, error),
            },
            None => match (self.maker.leaf)(job.subset.clone()) {
                Ok(leaf) => self.end(job.at, job.given, job.steps, End::Leaf(leaf)),
                Err(error) => self.refuse(job, error),
            },
        }
        Some(work)
    }

    /// A router or a balancer of a user's that failed, if one did.
    pub(crate) fn fault(&self) -> Option<&Error> {
        self.fault.as_ref()
    }

    /// Does all the work at once.
    pub(crate) fn run(mut self) -> Node<L> {
        while self.step().is_some() {}
        self.finish()
    }

    /// The plan, once there is no work left.
    pub(crate) fn finish(mut self) -> Node<L> {
        // Branches stand behind their forks, so from the end on they are done before they are asked for.
        for at in (0..self.parts.len()).rev() {
            if let Part::Fork { given, steps, fork, branches } = self.take_part(at) {
                let branches = branches.into_iter().map(|branch| self.done(branch)).collect();
                self.put(at, Part::Done(fork.join(given, steps, branches)));
            }
        }
        self.done(0)
    }

    fn take(&mut self, mut job: Job, routed: Routed) {
        let given = job.subset.len().get();
        match routed.way {
            Way::Alike(subset) => {
                let left = subset.len().get();
                job.steps.push(Step { router: job.depth, given, left, note: routed.note });
                self.jobs.push(Job { depth: job.depth + 1, subset, ..job });
            }
            Way::Fork { switch, branches } => self.fork(job, None, switch, branches, routed.note),
            Way::Aside { plain, asks, switch, branches } => {
                let branches = [plain].into_iter().chain(branches).collect();
                self.fork(job, Some(asks), switch, branches, routed.note);
            }
        }
    }

    fn fork(
        &mut self,
        job: Job,
        asks: Option<Asks>,
        switch: Arc<dyn Switch>,
        branches: Vec<Result<Subset>>,
        note: Option<Arc<str>>,
    ) {
        let first = self.parts.len();
        for (n, branch) in branches.into_iter().enumerate() {
            self.parts.push(Part::Open);
            match branch {
                Ok(subset) => self.jobs.push(Job::new(first + n, job.depth + 1, subset)),
                Err(error) => {
                    let end = End::Refused { error, router: job.depth };
                    self.end(first + n, job.subset.len().get(), Vec::new(), end);
                }
            }
        }
        let fork = Head { router: job.depth, asks, switch, given: job.subset, note };
        let branches = (first..self.parts.len()).collect();
        self.put(job.at, Part::Fork { given: job.given, steps: job.steps.into(), fork, branches });
    }

    fn refuse(&mut self, job: Job, error: Error) {
        if error.kind() == ErrorKind::Plugin {
            self.fault.get_or_insert_with(|| error.clone());
        }
        self.end(job.at, job.given, job.steps, End::Refused { error, router: job.depth });
    }

    fn end(&mut self, at: usize, given: usize, steps: Vec<Step>, end: End<L>) {
        self.put(at, Part::Done(Node { given, steps: steps.into(), asides: Box::default(), end }));
    }

    fn put(&mut self, at: usize, part: Part<L>) {
        if let Some(place) = self.parts.get_mut(at) {
            *place = part;
        }
    }

    /// Takes a fork out; what is done stays.
    fn take_part(&mut self, at: usize) -> Part<L> {
        match self.parts.get_mut(at) {
            Some(part @ Part::Fork { .. }) => std::mem::replace(part, Part::Open),
            _ => Part::Open,
        }
    }

    fn done(&mut self, at: usize) -> Node<L> {
        if let Some(Part::Done(node)) = self.parts.get_mut(at).map(|part| std::mem::replace(part, Part::Open)) {
            return node;
        }
        // Every part is either ended by a job or is a fork of parts behind it.
        let error = Error::new(ErrorKind::Internal, "a plan was taken before it was built");
        Node::ending(0, End::Refused { error, router: 0 })
    }
}
