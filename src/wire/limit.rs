//! Rate-limit rules into the model.
//!
//! A rule with one bad part is left out as a whole, and its neighbours stay: without one of its conditions it would limit
//! calls that its author did not mean, and without one of its amounts it would say something else.

use std::cmp::Reverse;
use std::sync::Arc;
use std::time::Duration;

use crate::model::key::ServiceKey;
use crate::model::label::{LabelKey, LabelKind};
use crate::model::matcher::{Condition, Matcher};
use crate::model::rule::limit::{Amount, Limit, LimitRule, LimitRules, Scope, Shared};
use crate::pb::v1;
use crate::pb::v1::match_argument::Type as ArgumentType;
use crate::pb::v1::rule::{AmountMode, FailoverType, Resource, Type};
use crate::wire::condition::{Checked, Fault, condition, label_condition, numbered};

/// The shortest length of time that an amount can be for, as the specification has it.
const SHORTEST: Duration = Duration::from_secs(1);
/// The longest: beyond, an amount is a typing error rather than a limit.
const LONGEST: Duration = Duration::from_secs(366 * 24 * 3600);

/// The rules that are in force, by priority and id.
pub(super) fn limit_rules(rules: &v1::RateLimit) -> Checked<LimitRules> {
    let mut skipped = Vec::new();
    let mut enabled: Vec<_> = rules.rules.iter().filter(|rule| rule.disable != Some(true)).collect();
    enabled.sort_by(|a, b| (a.priority.unwrap_or_default(), id(a)).cmp(&(b.priority.unwrap_or_default(), id(b))));
    let mut usable = Vec::with_capacity(enabled.len());
    for rule in enabled {
        match limit_rule(rule, &mut skipped) {
            Ok(rule) => usable.push(Arc::new(rule)),
            Err(fault) => skipped.push(format!("rule {}: {fault}", name(rule))),
        }
    }
    (LimitRules { rules: usable.into() }, skipped)
}

fn id(rule: &v1::Rule) -> &str {
    rule.id.as_deref().unwrap_or_default()
}

fn name(rule: &v1::Rule) -> &str {
    rule.name.as_deref().filter(|name| !name.is_empty()).unwrap_or_else(|| id(rule))
}

fn limit_rule(rule: &v1::Rule, flaws: &mut Vec<String>) -> Result<LimitRule, Fault> {
    let arguments: Vec<_> = if rule.arguments.is_empty() {
        // The form of old servers; newer ones mirror the arguments in it.
        let label = |(key, value): (&String, _)| label_condition(LabelKey::from_flat(key), value);
        rule.labels.iter().map(label).collect::<Result<_, Fault>>()?
    } else {
        numbered("argument", rule.arguments.iter().map(argument))?
    };
    let method = rule.method.as_ref().map(|value| condition(value, true)).transpose();
    let method = method.map_err(|fault| format!("method: {fault}"))?.filter(|method| !is_any(method));
    let labelled = arguments.iter().map(|(key, condition)| (format!("label {key}"), condition));
    let conditions = method.iter().map(|method| ("method".to_owned(), method)).chain(labelled);
    for (what, condition) in conditions {
        if let Some(flaw) = condition.text().and_then(Matcher::flaw) {
            flaws.push(format!("rule {}: {what}: {flaw}; it is never true", name(rule)));
        }
    }
    Ok(LimitRule {
        id: id(rule).into(),
        name: name(rule).into(),
        revision: rule.revision.as_deref().unwrap_or_default().into(),
        method,
        arguments,
        combine: rule.regex_combine.unwrap_or_default(),
        limit: limit(rule, flaws)?,
        response: rule.custom_response.as_ref().map(|response| response.body.as_str().into()),
    })
}

fn is_any(condition: &Condition) -> bool {
    condition.text().is_some_and(Matcher::is_any)
}

fn argument(argument: &v1::MatchArgument) -> Result<(LabelKey, Condition), Fault> {
    let kind = match ArgumentType::try_from(argument.r#type) {
        Ok(ArgumentType::Custom) => LabelKind::Custom,
        Ok(ArgumentType::Method) => LabelKind::Method,
        Ok(ArgumentType::Header) => LabelKind::Header,
        Ok(ArgumentType::Query) => LabelKind::Query,
        Ok(ArgumentType::CallerService) => LabelKind::CallerService,
        Ok(ArgumentType::CallerIp) => LabelKind::CallerIp,
        Ok(ArgumentType::CallerMetadata) => LabelKind::CallerMetadata,
        Err(_) => return Err(format!("nobody knows argument type {}; known are 0 to 6", argument.r#type)),
    };
    let unsaid = v1::MatchString::default();
    label_condition(LabelKey::new(kind, &argument.key), argument.value.as_ref().unwrap_or(&unsaid))
}

fn limit(rule: &v1::Rule, flaws: &mut Vec<String>) -> Result<Limit, Fault> {
    match Resource::try_from(rule.resource) {
        Ok(Resource::Concurrency) => return concurrent(rule),
        Ok(Resource::Qps) => {}
        Err(_) => return Err(format!("nobody knows resource {}; known are 0 and 1", rule.resource)),
    }
    if rule.amounts.is_empty() {
        return Err("it has no amounts".to_owned());
    }
    let scope = scope(rule)?;
    let mut amounts = numbered("amount", rule.amounts.iter().map(|amount| self::amount(amount, &scope)))?;
    amounts.sort_by_key(|amount| (Reverse(amount.within), amount.calls));
    let all = amounts.len();
    // Of two for one length of time, the smaller comes first and is the one that limits.
    amounts.dedup_by_key(|amount| amount.within);
    if amounts.len() < all {
        flaws.push(format!("rule {}: it has several amounts for one duration; the smallest counts", name(rule)));
    }
    match rule.action.as_deref().unwrap_or_default() {
        action if action.is_empty() || action.eq_ignore_ascii_case("reject") => {
            Ok(Limit::Quota { amounts: amounts.into(), scope })
        }
        action if action.eq_ignore_ascii_case("unirate") => Ok(paced(rule, &amounts)),
        action => Err(format!("nobody knows action {action:?}; known are REJECT and UNIRATE")),
    }
}

/// Public servers do not keep the concurrent amount, so the other amounts stand in for it.
fn concurrent(rule: &v1::Rule) -> Result<Limit, Fault> {
    let own = rule.concurrency_amount.as_ref().map(|amount| amount.max_amount).filter(|amount| *amount > 0);
    let other = || rule.amounts.iter().map(|amount| amount.max_amount.unwrap_or_default()).min();
    own.or_else(other).map(Limit::Concurrent).ok_or_else(|| "it has no concurrencyAmount".to_owned())
}

/// The slowest of the amounts sets the pace.
fn paced(rule: &v1::Rule, amounts: &[Amount]) -> Limit {
    let interval = |amount: &Amount| amount.within.checked_div(amount.calls);
    let longest_wait = rule.max_queue_delay.filter(|seconds| *seconds > 0).map(|s| Duration::from_secs(s.into()));
    let intervals: Option<Vec<_>> = amounts.iter().map(interval).collect();
    Limit::Paced { interval: intervals.and_then(|intervals| intervals.into_iter().max()), longest_wait }
}

fn amount(amount: &v1::Amount, scope: &Scope) -> Result<Amount, Fault> {
    let duration = amount.valid_duration.as_ref().ok_or_else(|| "it has no validDuration".to_owned())?;
    let within = Duration::try_from(*duration).unwrap_or_default();
    if !(SHORTEST..=LONGEST).contains(&within) {
        return Err(format!("validDuration {duration} is not from 1s to 366 days"));
    }
    // A limiter counts in whole seconds, and so does everybody else who shares the amount.
    let within = if *scope == Scope::Local { within } else { Duration::from_secs(within.as_secs()) };
    Ok(Amount { calls: amount.max_amount.unwrap_or_default(), within })
}

fn scope(rule: &v1::Rule) -> Result<Scope, Fault> {
    match Type::try_from(rule.r#type) {
        Ok(Type::Local) => return Ok(Scope::Local),
        Ok(Type::Global) => {}
        Err(_) => return Err(format!("nobody knows type {}; known are 0 and 1", rule.r#type)),
    }
    let per_client = match AmountMode::try_from(rule.amount_mode) {
        Ok(AmountMode::GlobalTotal) => false,
        Ok(AmountMode::ShareEqually) => true,
        Err(_) => return Err(format!("nobody knows amount mode {}; known are 0 and 1", rule.amount_mode)),
    };
    let pass_alone = match FailoverType::try_from(rule.failover) {
        Ok(FailoverType::FailoverLocal) => false,
        Ok(FailoverType::FailoverPass) => true,
        Err(_) => return Err(format!("nobody knows failover {}; known are 0 and 1", rule.failover)),
    };
    Ok(Scope::Global(Shared { per_client, pass_alone, limiter: rule.cluster.as_ref().and_then(limiter) }))
}

fn limiter(cluster: &v1::RateLimitCluster) -> Option<ServiceKey> {
    match (cluster.namespace.as_deref(), cluster.service.as_deref()) {
        (Some(namespace), Some(service)) if !namespace.is_empty() && !service.is_empty() => {
            Some(ServiceKey::new(namespace, service))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn amount(calls: u32, within: i64) -> v1::Amount {
        v1::Amount {
            max_amount: Some(calls),
            valid_duration: Some(prost_types::Duration { seconds: within, nanos: 0 }),
            ..Default::default()
        }
    }

    fn rule(id: &str) -> v1::Rule {
        v1::Rule {
            id: Some(id.to_owned()),
            r#type: Type::Local as i32,
            amounts: vec![amount(10, 1)],
            ..Default::default()
        }
    }

    fn read(rules: Vec<v1::Rule>) -> (Vec<Arc<LimitRule>>, Vec<String>) {
        let (rules, skipped) = limit_rules(&v1::RateLimit { rules, ..Default::default() });
        (rules.rules.into_vec(), skipped)
    }

    fn one(rule: v1::Rule) -> Limit {
        let (rules, skipped) = read(vec![rule]);
        assert_eq!(skipped, Vec::<String>::new());
        rules[0].limit.clone()
    }

    fn quota(calls: u32, within: u64) -> Amount {
        Amount { calls, within: Duration::from_secs(within) }
    }

    #[test]
    fn rules_are_in_the_order_of_priority_and_id_and_disabled_ones_are_gone() {
        let (rules, _) = read(vec![
            v1::Rule { priority: Some(1), ..rule("a") },
            v1::Rule { disable: Some(true), ..rule("b") },
            rule("d"),
            v1::Rule { name: Some("named".to_owned()), ..rule("c") },
        ]);
        let names: Vec<_> = rules.iter().map(|rule| &*rule.name).collect();
        assert_eq!(names, ["named", "d", "a"]);
    }

    #[test]
    fn a_bad_rule_is_left_out_with_its_fault_and_its_neighbours_stay() {
        let regex = v1::MatchString { r#type: 1, value: Some("[".to_owned()), ..Default::default() };
        for (bad, fault) in [
            (v1::Rule { amounts: Vec::new(), ..rule("x") }, "no amounts"),
            (v1::Rule { amounts: vec![amount(1, 0)], ..rule("x") }, "amount[0]: validDuration 0s is not from 1s"),
            (v1::Rule { amounts: vec![amount(1, 1), amount(1, 1 << 40)], ..rule("x") }, "amount[1]: validDuration"),
            (v1::Rule { amounts: vec![v1::Amount::default()], ..rule("x") }, "no validDuration"),
            (v1::Rule { amounts: vec![amount(1, -5)], ..rule("x") }, "validDuration -5s"),
            (v1::Rule { action: Some("warmUp".to_owned()), ..rule("x") }, "action \"warmUp\"; known are REJECT and"),
            (v1::Rule { resource: 7, ..rule("x") }, "resource 7"),
            (v1::Rule { r#type: 7, ..rule("x") }, "type 7"),
            (v1::Rule { r#type: 0, amount_mode: 9, ..rule("x") }, "amount mode 9"),
            (v1::Rule { r#type: 0, failover: 9, ..rule("x") }, "failover 9"),
            (v1::Rule { method: Some(regex.clone()), ..rule("x") }, "method: REGEX `[`"),
            (
                v1::Rule { arguments: vec![v1::MatchArgument { r#type: 99, ..Default::default() }], ..rule("x") },
                "argument[0]: nobody knows argument type 99",
            ),
            (
                v1::Rule {
                    arguments: vec![v1::MatchArgument { value: Some(regex.clone()), ..Default::default() }],
                    ..rule("x")
                },
                "argument[0]: label",
            ),
            (v1::Rule { resource: 1, amounts: Vec::new(), ..rule("x") }, "no concurrencyAmount"),
        ] {
            let (rules, skipped) = read(vec![bad, rule("good")]);
            assert_eq!(rules.len(), 1, "{fault}");
            assert!(
                skipped.len() == 1 && skipped[0].starts_with("rule x: ") && skipped[0].contains(fault),
                "{skipped:?}"
            );
        }
    }

    #[test]
    fn of_two_amounts_for_one_duration_the_smaller_counts_and_it_is_told() {
        let (rules, skipped) =
            read(vec![v1::Rule { amounts: vec![amount(9, 1), amount(3, 60), amount(5, 1)], ..rule("x") }]);
        let expected = [quota(3, 60), quota(5, 1)];
        assert!(matches!(&rules[0].limit, Limit::Quota { amounts, .. } if **amounts == expected));
        assert!(skipped[0].contains("several amounts"), "{skipped:?}");
    }

    #[test]
    fn an_amount_of_nothing_stays_and_refuses_all() {
        let none = v1::Amount { max_amount: None, ..amount(0, 1) };
        assert_eq!(
            one(v1::Rule { amounts: vec![none], ..rule("x") }),
            Limit::Quota { amounts: [quota(0, 1)].into(), scope: Scope::Local }
        );
        let paced =
            v1::Rule { action: Some("UniRate".to_owned()), amounts: vec![amount(0, 1), amount(1, 9)], ..rule("x") };
        assert_eq!(one(paced), Limit::Paced { interval: None, longest_wait: None });
    }

    #[test]
    fn the_slowest_amount_sets_the_pace() {
        let paced = v1::Rule {
            action: Some("unirate".to_owned()),
            amounts: vec![amount(10, 1), amount(60, 60)],
            max_queue_delay: Some(3),
            ..rule("x")
        };
        let expected =
            Limit::Paced { interval: Some(Duration::from_secs(1)), longest_wait: Some(Duration::from_secs(3)) };
        assert_eq!(one(paced), expected);
    }

    #[test]
    fn a_concurrent_amount_that_a_server_did_not_keep_is_that_of_the_amounts() {
        let own = |max_amount| v1::Rule {
            concurrency_amount: Some(v1::ConcurrencyAmount { max_amount }),
            resource: 1,
            ..rule("x")
        };
        assert_eq!(one(own(5)), Limit::Concurrent(5));
        assert_eq!(one(own(0)), Limit::Concurrent(10));
        assert_eq!(one(v1::Rule { resource: 1, ..rule("x") }), Limit::Concurrent(10));
    }

    #[test]
    fn a_global_rule_says_how_it_is_shared_and_counts_whole_seconds() {
        let half = v1::Amount {
            valid_duration: Some(prost_types::Duration { seconds: 1, nanos: 500_000_000 }),
            ..amount(4, 1)
        };
        let cluster = v1::RateLimitCluster { service: Some("limiter".to_owned()), namespace: Some("mine".to_owned()) };
        let global = v1::Rule {
            r#type: 0,
            amount_mode: 1,
            failover: 1,
            cluster: Some(cluster),
            amounts: vec![half],
            ..rule("x")
        };
        let shared = Shared { per_client: true, pass_alone: true, limiter: Some(ServiceKey::new("mine", "limiter")) };
        assert_eq!(one(global), Limit::Quota { amounts: [quota(4, 1)].into(), scope: Scope::Global(shared) });
    }

    #[test]
    fn old_labels_count_only_where_there_are_no_arguments() {
        let label = |key: &str| [(key.to_owned(), v1::MatchString::default())].into();
        let (rules, _) = read(vec![v1::Rule { labels: label("$header.uid"), ..rule("x") }]);
        assert_eq!(rules[0].arguments[0].0, LabelKey::new(LabelKind::Header, "uid"));
        let argument = v1::MatchArgument { r#type: 1, key: "$method".to_owned(), value: None };
        let (rules, _) = read(vec![v1::Rule { labels: label("$header.uid"), arguments: vec![argument], ..rule("x") }]);
        assert_eq!(rules[0].arguments.len(), 1);
        assert_eq!(rules[0].arguments[0].0, LabelKey::new(LabelKind::Method, ""));
    }

    #[test]
    fn a_range_that_is_none_stays_and_is_told() {
        let range = v1::MatchString { r#type: 5, value: Some("9~1".to_owned()), ..Default::default() };
        let (rules, skipped) = read(vec![v1::Rule { method: Some(range), ..rule("x") }]);
        assert_eq!(rules.len(), 1);
        assert!(skipped[0].contains("method: RANGE `9~1`"), "{skipped:?}");
    }
}
