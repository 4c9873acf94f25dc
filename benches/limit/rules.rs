//! Rate-limit rules as the control plane answers with them, and the calls that they are for.

use std::borrow::Cow;
use std::time::Duration;

use http::request::Parts;
use polarismesh::testing::bench::v1;
use polarismesh::{LabelKind, LabelSet, Labels, ServiceKey};
use prost::Message as _;
use prost::bytes::Bytes;
use v1::discover_response::DiscoverResponseType;
use v1::match_argument::Type as ArgumentType;
use v1::match_string::MatchStringType;

/// What a code says that all went well.
const DONE: u32 = 200_000;
/// What is called, by every call.
pub const METHOD: &str = "/orders/pay";
/// The two labels of every call: a header and a parameter of the query.
pub const USER: &str = "x-user";
pub const REGION: &str = "region";
/// More calls than any machine makes within a second.
pub const MANY: u32 = 4_000_000_000;

/// One rule for calls of this process alone.
#[derive(Clone, Default)]
pub struct Rule {
    pub method: Option<&'static str>,
    pub user: Option<Value>,
    pub region: Option<Value>,
    /// Calls, and within how many seconds.
    pub amounts: Vec<(u32, u64)>,
    pub what: What,
}

/// What a rule limits.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub enum What {
    #[default]
    Calls,
    Pace,
    AtOnce,
}

/// What one label of a call has to be.
#[derive(Clone)]
pub enum Value {
    Is(String),
    /// Each value is counted apart.
    Any,
    /// Each value that the expression matches is counted apart.
    Like(&'static str),
}

/// One call, as the application has its labels at hand.
pub struct Call {
    user: String,
    region: String,
}

// === impl Rule ===

impl Rule {
    /// Calls of the one method with these labels, as many as there may be.
    pub fn of(user: Value, region: Value) -> Self {
        Self { method: Some(METHOD), user: Some(user), region: Some(region), ..Self::plain() }
    }

    /// All calls, as many as there may be.
    pub fn plain() -> Self {
        Self { amounts: vec![(MANY, 1)], ..Self::default() }
    }

    /// The same with another amount.
    pub fn at_most(mut self, calls: u32) -> Self {
        self.amounts = vec![(calls, 1)];
        self
    }

    fn message(&self, key: &ServiceKey, number: u32) -> v1::Rule {
        let amount = |(calls, seconds): &(u32, u64)| v1::Amount {
            max_amount: Some(*calls),
            valid_duration: Some(Duration::from_secs(*seconds).try_into().expect("a short time")),
            ..v1::Amount::default()
        };
        let labels = [(ArgumentType::Header, USER, &self.user), (ArgumentType::Query, REGION, &self.region)];
        let argument = |(kind, key, value): (ArgumentType, &str, &Option<Value>)| {
            let value = Some(value.as_ref()?.message());
            Some(v1::MatchArgument { r#type: kind.into(), key: key.to_owned(), value })
        };
        v1::Rule {
            id: Some(format!("{number:040}")),
            name: Some(format!("rule-{number}")),
            namespace: Some(key.namespace().to_owned()),
            service: Some(key.service().to_owned()),
            priority: Some(number),
            r#type: v1::rule::Type::Local.into(),
            resource: match self.what {
                What::AtOnce => v1::rule::Resource::Concurrency.into(),
                What::Calls | What::Pace => v1::rule::Resource::Qps.into(),
            },
            action: Some(if self.what == What::Pace { "UNIRATE" } else { "REJECT" }.to_owned()),
            amounts: self.amounts.iter().map(amount).collect(),
            method: self.method.map(|method| text(MatchStringType::Exact, method)),
            arguments: labels.into_iter().filter_map(argument).collect(),
            revision: Some("1".to_owned()),
            ..v1::Rule::default()
        }
    }
}

/// So many rules of method and two labels, of which the last one holds for [`Call::one`]; the others fail at their last
/// label.
pub fn last_of(count: usize) -> Vec<Rule> {
    let call = Call::one();
    let others = (1..count).map(|n| Rule::of(Value::Is(call.user.clone()), Value::Is(format!("east-{n:03}"))));
    let last = Rule::of(Value::Is(call.user.clone()), Value::Is(call.region.clone()));
    others.chain([last]).collect()
}

impl Value {
    fn message(&self) -> v1::MatchString {
        match self {
            Self::Is(value) => text(MatchStringType::Exact, value),
            Self::Any => text(MatchStringType::Exact, "*"),
            Self::Like(pattern) => text(MatchStringType::Regex, pattern),
        }
    }
}

fn text(kind: MatchStringType, value: &str) -> v1::MatchString {
    v1::MatchString { r#type: kind.into(), value: Some(value.to_owned()), value_type: 0 }
}

/// The answer of the control plane with these rules.
pub fn answer(key: &ServiceKey, rules: &[Rule]) -> Bytes {
    let revision = Some("1".to_owned());
    let messages = rules.iter().zip(0..).map(|(rule, number)| rule.message(key, number));
    let service = v1::Service {
        namespace: Some(key.namespace().to_owned()),
        name: Some(key.service().to_owned()),
        revision: revision.clone(),
        ..v1::Service::default()
    };
    let answer = v1::DiscoverResponse {
        code: Some(DONE),
        r#type: DiscoverResponseType::RateLimit.into(),
        service: Some(service),
        rate_limit: Some(v1::RateLimit { rules: messages.collect(), revision }),
        ..v1::DiscoverResponse::default()
    };
    answer.encode_to_vec().into()
}

// === impl Call ===

impl Call {
    /// The call that all rules of texts are about.
    pub fn one() -> Self {
        Self { user: "user-4711".to_owned(), region: "east-000".to_owned() }
    }

    /// One of many, each with labels of its own.
    pub fn number(n: usize) -> Self {
        Self { user: format!("user-{:04}", n / 10), region: format!("east-{:03}", n % 10) }
    }

    /// What the keyed limiter of the peer tells calls apart by.
    pub fn key(&self) -> String {
        format!("{}|{}", self.user, self.region)
    }

    /// Its labels, collected.
    pub fn collected(&self) -> LabelSet {
        LabelSet::new().header(USER, &*self.user).query(REGION, &*self.region)
    }

    /// Its labels, where they stand in a request.
    pub fn request(&self) -> Parts {
        let mut request = http::Request::get(format!("http://bench{METHOD}?page=2&{REGION}={}&size=50", self.region));
        for (name, value) in
            [("host", "bench"), ("user-agent", "curl/8.5.0"), ("accept", "*/*"), ("accept-encoding", "gzip")]
        {
            request = request.header(name, value);
        }
        request.header(USER, &*self.user).body(()).expect("a request").into_parts().0
    }
}

/// As an application writes it that knows what it is asked for.
impl Labels for Call {
    fn get(&self, kind: LabelKind, key: &str) -> Option<Cow<'_, str>> {
        match (kind, key) {
            (LabelKind::Header, USER) => Some(Cow::Borrowed(&self.user)),
            (LabelKind::Query, REGION) => Some(Cow::Borrowed(&self.region)),
            _ => None,
        }
    }
}
