//! Limits: so many calls a second, a pace, and so many at the same time, by rules of the control plane.
//! It is in memory, and so is all of its time.

#![allow(clippy::print_stdout, reason = "an example shows what it does")]

use std::time::Duration;

use polarismesh::testing::Server;
use polarismesh::{Decision, GetQuota, LabelSet, LimitApi, LimitHandle, Quota, QuotaError, Result, RuleKind};
use tokio::time::Instant;

const AMOUNT: &str = "
    name: three-a-second-for-each-user
    namespace: default
    service: payments
    type: LOCAL
    method: {type: EXACT, value: /pay}
    arguments: [{type: HEADER, key: user, value: {type: REGEX, value: '.+'}}]
    amounts: [{maxAmount: 3, validDuration: 1s}]
    custom_response: {body: not so fast}";
const PACE: &str = "
    name: one-every-200ms
    namespace: default
    service: payments
    type: LOCAL
    action: UNIRATE
    method: {type: EXACT, value: /report}
    amounts: [{maxAmount: 5, validDuration: 1s}]";
const AT_ONCE: &str = "
    name: two-at-once
    namespace: default
    service: payments
    type: LOCAL
    resource: CONCURRENCY
    method: {type: EXACT, value: /export}
    concurrencyAmount: {maxAmount: 2}";

/// Asks without waiting: what a server does that has labels at hand. A call is under way while its decision is held.
fn ask(limits: &LimitHandle, quota: &Quota<'_>) -> Result<(String, Decision)> {
    let decision = limits.check(quota)?;
    let told = match &decision {
        Decision::Limited(limited) => match limited.custom_response() {
            Some(response) => format!("{response:?}, says {}", limited.rule()),
            None => limited.to_string(),
        },
        _ => "passes".to_owned(),
    };
    Ok((told, decision))
}

/// Asks by name, and waits for its turn.
async fn report(limiter: &LimitApi) -> Result<String> {
    let began = Instant::now();
    match limiter.get_quota(GetQuota::new("default", "payments").method("/report")).await {
        Ok(_permit) => Ok(format!("passes after {} ms", began.elapsed().as_millis())),
        Err(QuotaError::Failed(error)) => Err(error),
        Err(limited) => Ok(limited.to_string()),
    }
}

#[tokio::main(flavor = "current_thread", start_paused = true)]
async fn main() -> Result<()> {
    let server = Server::in_memory();
    for rule in [AMOUNT, PACE, AT_ONCE] {
        server.newer_kinds(true).rule(RuleKind::RateLimit, rule)?;
    }
    let context = server.context()?;
    let limiter = context.limiter();
    let limits = limiter.service(("default", "payments"));
    limits.ready().await?;

    for user in ["ann", "ann", "ann", "ann", "bob"] {
        let labels = LabelSet::new().header("user", user);
        println!("{user} pays: {}", ask(&limits, &Quota::new().method("/pay").labels(&labels))?.0);
    }
    let (a, b, c) = tokio::join!(report(&limiter), report(&limiter), report(&limiter));
    println!("three reports at once: one {}, one {}, one {}", a?, b?, c?);

    let export = Quota::new().method("/export");
    let (first, second) = (ask(&limits, &export)?, ask(&limits, &export)?);
    println!("two exports run; a third one: {}", ask(&limits, &export)?.0);
    drop(first);
    println!("one of them has ended; the third one: {}", ask(&limits, &export)?.0);
    drop(second);
    for rule in limits.usage() {
        println!("{}: {} passed, {} of them queued, {} limited", rule.name, rule.passed, rule.queued, rule.limited);
    }
    context.shutdown(Duration::from_secs(5)).await.ok();
    Ok(())
}
