//! Rate limiting: which calls a rule counts, together or apart, and what it lets pass.

use std::sync::Arc;
use std::time::Duration;

use crate::model::key::ServiceKey;
use crate::model::label::LabelKey;
use crate::model::matcher::{Condition, Matcher};

/// The rules of one service, the first to be asked first.
#[derive(Debug, Default)]
pub(crate) struct LimitRules {
    pub(crate) rules: Box<[Arc<LimitRule>]>,
}

/// One rule. All rules that match a call apply to it.
#[derive(Debug)]
pub(crate) struct LimitRule {
    /// As the control plane knows it.
    pub(crate) id: Arc<str>,
    /// As people know it: its name, else its id.
    pub(crate) name: Arc<str>,
    /// Of this rule alone; empty where the control plane gives none.
    pub(crate) revision: Box<str>,
    /// What is called; none is whatever is called.
    pub(crate) method: Option<Condition>,
    /// All of them must hold, and each needs its label to be there.
    pub(crate) arguments: Vec<(LabelKey, Condition)>,
    /// Whether calls of different values that match the same condition are counted together.
    pub(crate) combine: bool,
    pub(crate) limit: Limit,
    /// What a caller that is refused is to be answered.
    pub(crate) response: Option<Arc<str>>,
}

/// What a rule lets pass.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Limit {
    /// At most so many calls in each of these lengths of time.
    Quota { amounts: Box<[Amount]>, scope: Scope },
    /// Calls at equal distances; those that come early queue.
    Paced {
        /// The distance; none refuses all.
        interval: Option<Duration>,
        /// The longest that a call queues, where the rule says it.
        longest_wait: Option<Duration>,
    },
    /// At most so many calls at the same time.
    Concurrent(u32),
}

/// So many calls in so long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Amount {
    pub(crate) calls: u32,
    pub(crate) within: Duration,
}

/// Who shares an amount.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Scope {
    /// The calls of this process.
    Local,
    /// The calls of all clients of a limiter. Lengths of time are whole seconds.
    Global(Shared),
}

/// How an amount is shared.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Shared {
    /// The amount is that of each client, and moves to those that need it.
    pub(crate) per_client: bool,
    /// Whether all pass while the limiter is not reached, rather than a share of the amount.
    pub(crate) pass_alone: bool,
    /// The limiter's service, where the rule names it.
    pub(crate) limiter: Option<ServiceKey>,
}

impl LimitRules {
    /// A rule with an expression that was given up for some call.
    pub(crate) fn gave_up(&self) -> Option<&LimitRule> {
        let conditions = |rule: &LimitRule| {
            let arguments = rule.arguments.iter().map(|(_, condition)| condition);
            rule.method.iter().chain(arguments).filter_map(Condition::text).any(Matcher::gave_up)
        };
        self.rules.iter().map(|rule| &**rule).find(|rule| conditions(rule))
    }
}

impl LimitRule {
    /// Whether nothing has changed: what is counted goes on then.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        !self.revision.is_empty() && self.id == other.id && self.revision == other.revision
    }
}
