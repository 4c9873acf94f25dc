use serde_json::{Value, json};

use super::*;
use crate::error::{ErrorKind, ServerCode};
use crate::model::rule_kind::RuleKind;
use crate::testing::Release;

/// A rule with every field that a console takes.
fn full() -> Value {
    json!({
        "name": "full", "namespace": "shop", "service": "orders", "priority": 3, "resource": "CONCURRENCY",
        "type": "GLOBAL", "method": {"type": "REGEX", "value": "/pay.*"}, "regex_combine": true,
        "amount_mode": "SHARE_EQUALLY", "failover": "FAILOVER_PASS", "max_queue_delay": 5,
        "amounts": [{"maxAmount": 10, "validDuration": "1s"}, {"maxAmount": 3, "validDuration": "0.500s"}],
        "arguments": [
            {"type": "METHOD", "value": {"value": "POST"}},
            {"type": "HEADER", "key": "h", "value": {"value": "1"}},
            {"type": "QUERY", "key": "q", "value": {"value": "2"}},
            {"type": "CALLER_SERVICE", "key": "shop", "value": {"value": "web"}},
            {"type": "CALLER_IP", "value": {"value": "10.0.0.1"}},
            {"type": "CALLER_METADATA", "key": "m", "value": {"value": "3"}},
            {"type": "CUSTOM", "key": "c", "value": {"value": "4"}},
        ],
        "labels": {"given": {"value": "x"}}, "subset": {"s": {"value": "y"}}, "report": {"amountPercent": 50},
        "cluster": {"namespace": "Polaris", "service": "polaris.limiter"}, "concurrencyAmount": {"maxAmount": 7},
        "customResponse": {"body": "later"}, "metadata": {"team": "blue"},
    })
}

async fn rules(server: &Server, namespace: &str, service: &str) -> Vec<v1::Rule> {
    let answer = Discovery::open(server).await.ask(question(Kind::RateLimit, namespace, service)).await;
    assert_eq!(answer.code, Some(200_000));
    answer.rate_limit.map(|limits| limits.rules).unwrap_or_default()
}

#[tokio::test(start_paused = true)]
async fn public_servers_lose_some_fields_and_mirror_the_arguments() {
    for (release, metadata) in [(Release::Main, true), (Release::V1_18, false), (Release::V1_17, false)] {
        let server = Server::in_memory();
        server.release(release).service(("shop", "orders")).create();
        let id = server.rule(RuleKind::RateLimit, full()).unwrap();
        let rule = rules(&server, "shop", "orders").await.remove(0);
        assert_eq!((rule.id.as_ref(), rule.action.as_deref(), rule.priority), (Some(&id), Some("REJECT"), Some(3)));
        let labels: Vec<_> = rule.labels.iter().map(|(key, value)| (&**key, value.value.as_deref().unwrap())).collect();
        assert_eq!(
            labels,
            [
                ("$caller_ip", "10.0.0.1"),
                ("$caller_service.shop", "web"),
                ("$header.h", "1"),
                ("$method", "POST"),
                ("$query.q", "2"),
                ("c", "4"),
                ("m", "3"),
            ]
        );
        assert!(rule.subset.is_empty() && rule.report.is_none() && rule.cluster.is_none());
        assert!(rule.concurrency_amount.is_none() && rule.custom_response.is_none());
        assert_eq!(rule.metadata.contains_key("team"), metadata, "{release:?}");
        assert_eq!(
            (rule.max_queue_delay, rule.regex_combine, rule.failover, rule.amount_mode),
            (Some(5), Some(true), 1, 1)
        );
        let nanos = rule.amounts.iter().map(|amount| amount.valid_duration.unwrap().nanos).collect::<Vec<_>>();
        assert_eq!((nanos, rule.arguments.len()), (vec![0, 500_000_000], 7), "below a second as well");
    }
}

#[tokio::test(start_paused = true)]
async fn a_server_of_newer_kinds_keeps_what_the_others_lose() {
    let server = Server::in_memory();
    server.newer_kinds(true).rule(RuleKind::RateLimit, full()).unwrap();
    let rule = rules(&server, "shop", "orders").await.remove(0);
    assert_eq!(rule.concurrency_amount.unwrap().max_amount, 7);
    assert_eq!(rule.custom_response.unwrap().body, "later");
    assert_eq!(rule.cluster.unwrap().service.as_deref(), Some("polaris.limiter"));
    assert!(rule.subset.contains_key("s") && rule.report.is_some() && rule.metadata.contains_key("team"));
    assert_eq!((rule.labels.len(), rule.action.as_deref()), (7, Some("REJECT")));
    assert!(rules(&server, "Polaris", "polaris.limiter").await.is_empty(), "its cluster is no service it is for");
    let plain =
        json!({"namespace": "shop", "service": "stock", "labels": {"old": {"value": "1"}}, "action": "unirate"});
    server.rule(RuleKind::RateLimit, plain).unwrap();
    let rule = rules(&server, "shop", "stock").await.remove(0);
    assert_eq!((rule.labels.contains_key("old"), rule.action.as_deref()), (true, Some("unirate")));
}

#[tokio::test(start_paused = true)]
async fn a_disabled_rule_is_delivered_and_one_of_an_alias_reaches_nobody() {
    let server = Server::in_memory();
    server.service(("edge", "front")).alias_of(("shop", "orders"));
    server.service(("shop", "orders")).create();
    server.rule(RuleKind::RateLimit, "{name: off, namespace: shop, service: orders, disable: true}").unwrap();
    server.rule(RuleKind::RateLimit, "{name: lost, namespace: edge, service: front}").unwrap();
    for (namespace, service) in [("shop", "orders"), ("edge", "front")] {
        let found = rules(&server, namespace, service).await;
        assert_eq!((found.len(), found[0].name.as_deref(), found[0].disable), (1, Some("off"), Some(true)));
        assert_eq!(found[0].service.as_deref(), Some("orders"), "its rules come under the name of the real service");
    }
}

#[tokio::test(start_paused = true)]
async fn what_a_console_refuses_of_a_limit_has_its_code() {
    let server = Server::in_memory();
    let twice = json!([{"maxAmount": 1, "validDuration": "1s"}, {"maxAmount": 2, "validDuration": "60s"},
        {"maxAmount": 3, "validDuration": "1s"}]);
    let refused = [
        (json!({"namespace": "shop", "service": "*"}), 400_120, "service: "),
        (json!({"namespace": "shop", "service": "a", "amounts": twice}), 400_153, "amounts[2].validDuration: "),
    ];
    for (rule, code, place) in refused {
        let error = server.rule(RuleKind::RateLimit, &rule).unwrap_err();
        assert_eq!((error.kind(), error.server_code().map(ServerCode::get)), (ErrorKind::InvalidArgument, Some(code)));
        assert!(error.to_string().contains(place), "{error}");
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("data.yaml");
        std::fs::write(&file, json!({"ratelimits": [full(), rule]}).to_string()).unwrap();
        let error = server.load(&file).unwrap_err().to_string();
        assert!(
            error.contains(&format!("ratelimits[1]: invalid argument: a rule of kind RateLimit: {place}")),
            "{error}"
        );
    }
    assert!(server.rules(RuleKind::RateLimit).is_empty());
    let id = server.rule(RuleKind::RateLimit, full()).unwrap();
    let error = server.change_rule(RuleKind::RateLimit, &id, "{service: '*'}").unwrap_err();
    assert_eq!(error.server_code().map(ServerCode::get), Some(400_120));
}

#[tokio::test(start_paused = true)]
async fn a_data_file_holds_limits_in_the_consoles_names() {
    let server = Server::in_memory();
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("data.yaml");
    let text = "
ratelimits:
  - name: pay
    namespace: shop
    service: orders
    type: GLOBAL
    method: {type: EXACT, value: /pay}
    arguments: [{type: HEADER, key: user, value: {type: EXACT, value: ann}}]
    amounts: [{maxAmount: 10, validDuration: 1s}]
    regex_combine: true
";
    std::fs::write(&file, text).unwrap();
    server.load(&file).unwrap();
    let rule = rules(&server, "shop", "orders").await.remove(0);
    assert_eq!((rule.name.as_deref(), rule.r#type, rule.regex_combine), (Some("pay"), 0, Some(true)));
    assert_eq!(rule.amounts[0].max_amount, Some(10));
    assert_eq!(rule.labels.keys().collect::<Vec<_>>(), ["$header.user"]);
}
