//! Routing by rules and by place: a canary for testers, a split of 80 to 20, and fail-over to the next zone, as a table of
//! who was picked. Ends with the reasons of one request. The control plane is in memory, and so is all of its time.

#![allow(clippy::print_stdout, reason = "an example shows what it does")]

use std::collections::BTreeMap;
use std::time::Duration;

use polarismesh::testing::{Server, instance};
use polarismesh::{GetOneInstance, LabelSet, Location, Pick, Result, RuleKind, ServiceHandle};

const SHOP: (&str, &str) = ("default", "shop");
/// Rules are tried in the order of their priorities.
const CANARY: &str = "
    name: canary
    enable: true
    priority: 0
    routing_config:
      rules:
        - name: testers
          sources:
            - {namespace: '*', service: '*', arguments: [{type: HEADER, key: user, value: {type: IN, value: 'ann,bob'}}]}
          destinations:
            - {namespace: default, service: shop, name: new, weight: 100, labels: {version: {value: v2}}}";
const SPLIT: &str = "
    name: split
    enable: true
    priority: 1
    routing_config:
      rules:
        - name: anybody
          sources: [{namespace: '*', service: '*'}]
          destinations:
            - {namespace: default, service: shop, name: old, weight: 80, labels: {version: {value: v1}}}
            - {namespace: default, service: shop, name: new, weight: 20, labels: {version: {value: v2}}}";

/// Picks a thousand times, once clients have polled what changed, and prints how often which version was picked where.
async fn row(situation: &str, shop: &ServiceHandle, pick: &Pick<'_>) -> Result<()> {
    tokio::time::sleep(Duration::from_secs(3)).await;
    let mut picks: BTreeMap<String, u32> = BTreeMap::new();
    for _ in 0..1000 {
        let instance = shop.pick(pick)?;
        let version = instance.metadata().get("version").unwrap_or_default();
        *picks.entry(format!("{version} {}", instance.location().zone)).or_default() += 1;
    }
    print!("{situation:<42}");
    for column in ["v1 near", "v1 far", "v2 near", "v2 far"] {
        print!("{:>9}", picks.get(column).copied().unwrap_or(0));
    }
    println!();
    Ok(())
}

#[tokio::main(flavor = "current_thread", start_paused = true)]
async fn main() -> Result<()> {
    let server = Server::in_memory();
    for (port, version, zone) in [(1, "v1", "near"), (2, "v1", "far"), (3, "v2", "near"), (4, "v2", "far")] {
        let place = Location::new("north", zone, "");
        server.service(SHOP).instance(instance("10.0.0.1", port).metadata("version", version).location(&place));
    }
    let here = server.builder().set("global.location.region", "north").set("global.location.zone", "near");
    let context = here.build()?;
    let shop = context.consumer().service(SHOP);
    shop.ready().await?;
    let ann = LabelSet::new().header("user", "ann");
    let (anybody, tester) = (Pick::new(), Pick::new().labels(&ann));

    println!("{:<42}{:>9}{:>9}{:>9}{:>9}", "1000 picks", "v1 near", "v1 far", "v2 near", "v2 far");
    row("no rules", &shop, &anybody).await?;
    server.rule(RuleKind::Routing, CANARY)?;
    row("canary: the header says ann", &shop, &tester).await?;
    row("canary: anybody", &shop, &anybody).await?;
    server.rule(RuleKind::Routing, SPLIT)?;
    row("and 80 to 20: anybody", &shop, &anybody).await?;
    row("and 80 to 20: the header says ann", &shop, &tester).await?;
    server.service(SHOP).metadata("internal-enable-nearby", "true");
    row("and nearby: anybody", &shop, &anybody).await?;
    server.service(SHOP).edit("10.0.0.1", 1, |instance| instance.healthy(false));
    row("and v1 is dead in the near zone: anybody", &shop, &anybody).await?;

    let told = context.router().explain(GetOneInstance::new(SHOP.0, SHOP.1)).await?;
    println!("\nWhy anybody gets what it gets:\n{told}");
    context.shutdown(Duration::from_secs(5)).await.ok();
    Ok(())
}
