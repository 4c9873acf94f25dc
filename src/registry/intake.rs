//! What is done with an answer: serve it, hold it back, or keep what is there.
//!
//! The revision that is presented next is that of the newest answer *taken*, which may be one that is held back: then
//! "unchanged" means that the doubted answer was seen again. It advances only together with the content that it names.
//! All of this happens under the entry's own lock, for a moment; readers never wait for it.

use std::mem;
use std::sync::atomic::Ordering;
use std::sync::{Arc, MutexGuard, PoisonError};

use tokio::time::Instant;

use crate::error::{Error, ErrorKind, ServerCode};
use crate::model::key::{ResourceKind, Revision};
use crate::model::snapshot::{Answer, Resource};
use crate::registry::entry::Entry;
use crate::registry::guard::{Guard, GuardPolicy, Known, Offer, Verdict};
use crate::registry::view::{Origin, Standing, Trouble, View, empty, items, shared};

/// What the writer knows of a key beyond what is served.
#[derive(Debug, Default)]
pub(super) struct Intake {
    /// The revision of the newest answer taken; none before the first.
    taken: Option<Revision>,
    guard: Guard,
    /// The answer that the guard holds back.
    doubted: Option<Offered>,
    /// What a file had that is too old to be served unless the control plane fails.
    fallback: Option<(Resource, u64)>,
}

/// An answer that would replace what is served.
#[derive(Debug)]
enum Offered {
    Full(Resource, Arc<[String]>),
    Gone(Error),
}

/// What came of an answer.
#[derive(Debug, Default)]
pub(super) struct Effect {
    /// Other content than that of the answer before.
    pub(super) news: bool,
    /// What is served, or how the entry stands, is different.
    pub(super) changed: bool,
    pub(super) save: Option<Save>,
    pub(super) edge: Option<Edge>,
}

/// What the disk cache has to do.
#[derive(Debug)]
pub(super) enum Save {
    Write(Resource),
    Remove,
}

/// What is worth a line in the log. Never a repetition.
#[derive(Debug)]
pub(super) enum Edge {
    Failed(Error),
    Doubted(Error),
    Recovered,
    /// What had instances is gone.
    Gone,
    Skipped(Arc<[String]>),
}

impl Entry {
    /// Takes one answer of the control plane.
    pub(super) fn take(&self, answer: Answer, policy: GuardPolicy, now: Instant) -> Effect {
        let mut intake = self.intake();
        match answer {
            Answer::Failed(error) => self.failed(&mut intake, error, now),
            Answer::Unsupported if self.key().kind.is_rule() => {
                intake.taken = Some(Revision::default());
                self.serve(&mut intake, empty(self.key()), Arc::default(), now)
            }
            Answer::Unsupported => {
                let error = Error::new(ErrorKind::Unsupported, format!("discovering {}", self.key().kind));
                self.failed(&mut intake, error.with_service(self.key().service.text()), now)
            }
            Answer::Unchanged => self.unchanged(&mut intake, policy, now),
            Answer::NotFound { code, info } => {
                intake.taken = Some(Revision::default());
                self.offer(&mut intake, Offered::Gone(self.not_found(code, &info)), policy, now)
            }
            Answer::Full { resource, skipped } => {
                intake.taken = Some(resource.revision().clone());
                self.offer(&mut intake, Offered::Full(resource, skipped.into()), policy, now)
            }
        }
    }

    /// The revision to present with the next question.
    pub(super) fn revision(&self) -> Revision {
        self.intake().taken.clone().unwrap_or_default()
    }

    /// The control plane was lost: doubted answers have to be seen for a whole window again, and what an old file had
    /// is better than nothing.
    pub(super) fn lost(&self) -> Effect {
        let mut intake = self.intake();
        intake.guard.interrupt();
        let changed = self.fall_back(&mut intake);
        Effect { changed, ..Effect::default() }
    }

    /// A caller has waited in vain: what an old file had is better than nothing.
    pub(super) fn lost_patience(&self) -> Effect {
        let changed = self.fall_back(&mut self.intake());
        Effect { changed, ..Effect::default() }
    }

    /// Takes what the disk cache had, unless the control plane was faster. Without `at_once` it is only kept for the
    /// case that the control plane fails, and serves at once where it has failed already.
    pub(super) fn loaded(&self, resource: Resource, written: u64, at_once: bool) -> Effect {
        let mut intake = self.intake();
        let view = self.view.load();
        if !matches!(view.standing, Standing::Loading) {
            return Effect::default();
        }
        intake.fallback = Some((resource, written));
        let changed = (at_once || view.trouble.is_some() || self.shared.link.is_lost()) && self.fall_back(&mut intake);
        Effect { changed, ..Effect::default() }
    }

    fn intake(&self) -> MutexGuard<'_, Intake> {
        // Nothing in it is left half changed: a panic inside could only come from a dropped value.
        self.intake.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn offer(&self, intake: &mut Intake, offered: Offered, policy: GuardPolicy, now: Instant) -> Effect {
        match self.judge(intake, &offered, policy, now) {
            Verdict::Serve => self.accept(intake, offered, now),
            Verdict::Hold => self.hold(intake, offered, now),
        }
    }

    fn judge(&self, intake: &mut Intake, offered: &Offered, policy: GuardPolicy, now: Instant) -> Verdict {
        let view = self.view.load();
        let offer = match offered {
            // That a rule was deleted is no fault: only a service that is gone takes its rules away by mistake.
            Offered::Full(Resource::Rules(_), _) => Offer::Holds(view.items()),
            Offered::Full(resource, _) => Offer::Holds(items(resource)),
            Offered::Gone(_) => Offer::Gone,
        };
        let age = match view.origin {
            Origin::Disk(written) => self.shared.clock.age(written, now),
            _ => self.age(now),
        };
        intake.guard.judge(policy, Known { items: view.items(), age }, offer, now)
    }

    fn accept(&self, intake: &mut Intake, offered: Offered, now: Instant) -> Effect {
        match offered {
            Offered::Full(resource, skipped) => self.serve(intake, resource, skipped, now),
            Offered::Gone(_) if self.key().kind.is_rule() => self.serve(intake, empty(self.key()), Arc::default(), now),
            Offered::Gone(error) => self.gone(intake, error, now),
        }
    }

    fn serve(&self, intake: &mut Intake, resource: Resource, skipped: Arc<[String]>, now: Instant) -> Effect {
        intake.settle();
        self.confirm(now);
        self.given_up.store(false, Ordering::Relaxed);
        let old = self.view.load_full();
        let same = matches!(old.standing, Standing::Ready)
            && old.content.as_ref().is_some_and(|served| served.same_content(&resource));
        let live = old.origin == Origin::Live;
        let recovered = old.trouble.is_some();
        let edge = match () {
            () if !skipped.is_empty() && skipped != old.skipped => Some(Edge::Skipped(Arc::clone(&skipped))),
            () if recovered => Some(Edge::Recovered),
            () => None,
        };
        if same && live && !recovered && skipped == old.skipped {
            return Effect::default();
        }
        let content = if same { old.content.clone() } else { Some(shared(resource, old.content.as_ref())) };
        let file = content.clone().filter(|_| !same || !live).map(Save::Write);
        self.view.store(Arc::new(View {
            content,
            origin: Origin::Live,
            standing: Standing::Ready,
            trouble: None,
            skipped,
            contents: old.contents + u64::from(!same),
            troubles: old.troubles,
        }));
        Effect { news: !same, changed: true, save: file, edge }
    }

    /// The service is not there: a watch is told that nothing is left, and then why.
    fn gone(&self, intake: &mut Intake, error: Error, now: Instant) -> Effect {
        intake.settle();
        self.confirm(now);
        self.given_up.store(false, Ordering::Relaxed);
        let old = self.view.load_full();
        let known = matches!(old.standing, Standing::NotFound(_));
        let recovered = old.trouble.is_some();
        if known && !recovered {
            return Effect::default();
        }
        let lost = !known && old.items() > 0;
        self.view.store(Arc::new(View {
            content: old.content.as_ref().map(|_| empty(self.key())),
            origin: Origin::Live,
            standing: Standing::NotFound(error),
            trouble: None,
            skipped: Arc::default(),
            contents: old.contents + u64::from(lost),
            troubles: old.troubles + u64::from(!known),
        }));
        let edge = if lost { Some(Edge::Gone) } else { recovered.then_some(Edge::Recovered) };
        Effect { news: !known, changed: true, save: (!known).then_some(Save::Remove), edge }
    }

    fn hold(&self, intake: &mut Intake, offered: Offered, now: Instant) -> Effect {
        let first = !self.view.load().trouble.as_ref().is_some_and(|trouble| trouble.doubted);
        let error = self.doubt(&offered);
        intake.doubted = Some(offered);
        if !first {
            return Effect::default();
        }
        let edge = Some(Edge::Doubted(error.clone()));
        let changed = self.in_trouble(Trouble { error, since: now, doubted: true });
        Effect { news: true, changed, save: None, edge }
    }

    fn unchanged(&self, intake: &mut Intake, policy: GuardPolicy, now: Instant) -> Effect {
        if let Some(doubted) = intake.doubted.take() {
            return self.offer(intake, doubted, policy, now);
        }
        if intake.taken.is_none() {
            // Nothing was presented. Of rules, a server means by it that there are none; of others it means nothing.
            return if self.key().kind.is_rule() {
                intake.taken = Some(Revision::default());
                self.serve(intake, empty(self.key()), Arc::default(), now)
            } else {
                Effect::default()
            };
        }
        self.confirm(now);
        let old = self.view.load_full();
        if old.trouble.is_none() {
            return Effect::default();
        }
        self.view.store(Arc::new(View { trouble: None, ..View::clone(&old) }));
        Effect { changed: true, edge: Some(Edge::Recovered), ..Effect::default() }
    }

    fn failed(&self, intake: &mut Intake, error: Error, now: Instant) -> Effect {
        intake.guard.interrupt();
        let fell_back = self.fall_back(intake);
        let first = self.view.load().trouble.is_none();
        let edge = first.then(|| Edge::Failed(error.clone()));
        let changed = self.in_trouble(Trouble { error, since: now, doubted: false });
        Effect { changed: changed || fell_back, edge, ..Effect::default() }
    }

    /// Marks the entry. One trouble is told once, whatever follows it until it is over; only where nothing is served, so
    /// that a caller may be waiting, another kind of failure is told as well. Returns whether something was there to tell.
    fn in_trouble(&self, new: Trouble) -> bool {
        let old = self.view.load_full();
        let (since, doubted, told) = match &old.trouble {
            None => (new.since, new.doubted, false),
            Some(known) if known.error.kind() == new.error.kind() && known.doubted >= new.doubted => return false,
            Some(known) => (known.since, known.doubted, matches!(old.standing, Standing::Ready)),
        };
        let trouble = Some(Trouble { error: new.error, since, doubted: doubted || new.doubted });
        let troubles = old.troubles + u64::from(!told);
        self.view.store(Arc::new(View { trouble, troubles, ..View::clone(&old) }));
        !told
    }

    fn fall_back(&self, intake: &mut Intake) -> bool {
        let old = self.view.load_full();
        if !matches!(old.standing, Standing::Loading) {
            return false;
        }
        let Some((resource, written)) = intake.fallback.take() else { return false };
        self.view.store(Arc::new(View {
            content: Some(resource),
            origin: Origin::Disk(written),
            standing: Standing::Ready,
            contents: old.contents + 1,
            ..View::clone(&old)
        }));
        true
    }

    fn not_found(&self, code: ServerCode, info: &str) -> Error {
        let what = match self.key().kind {
            ResourceKind::Services => "namespace",
            _ => "service",
        };
        let context = format!("the control plane knows no such {what}: {info}");
        let error = Error::from_code(code, context.clone());
        // 400202 stands for any resource; what was asked for here is a service.
        let error = if error.kind() == ErrorKind::ServiceNotFound {
            error
        } else {
            Error::new(ErrorKind::ServiceNotFound, format!("{context} (code {code})"))
        };
        let error = error.with_service(self.key().service.text());
        match self.shared.link.server() {
            Some(server) => error.with_address(server),
            None => error,
        }
    }

    fn doubt(&self, offered: &Offered) -> Error {
        let known = self.view.load().items();
        let what = match offered {
            Offered::Full(resource, _) => format!("only {} of {known} {}", items(resource), self.key().kind),
            Offered::Gone(error) => format!("none of {known} {} ({})", self.key().kind, error.kind()),
        };
        let context = format!("the control plane answered with {what}; what was there is kept until that is confirmed");
        Error::new(ErrorKind::Server, context).with_service(self.key().service.text())
    }
}

impl Intake {
    /// An answer was accepted: nothing else is waiting to be.
    fn settle(&mut self) {
        mem::take(&mut self.guard);
        self.doubted = None;
        self.fallback = None;
    }
}
