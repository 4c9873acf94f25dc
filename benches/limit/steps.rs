//! What each step of a check adds: the same call, limited by more and more.

use std::future::Future as _;
use std::hint::black_box;
use std::pin::pin;
use std::task::{Context, Poll, Waker};
use std::time::Instant;

use arc_swap::ArcSwap;
use polarismesh::{GetQuotaFuture, LabelKind, Labels as _, Permit, Quota};
use polarismesh_benches::harness::Table;
use polarismesh_benches::runtime::{on_this_thread, runtime};

use crate::bed::{Bed, Rows, by_handle, direct};
use crate::effort::Effort;
use crate::rules::{Call, MANY, METHOD, REGION, Rule, USER, Value, What, last_of};

const G: &str = "G, passed";
const NO_LABEL: &str = "1 rule of no label";

pub fn measure(effort: &Effort, table: &mut Table) {
    let (runtime, asleep) = (runtime(), on_this_thread());
    // Nobody drives the runtime of the second one while it is measured, so its clock never ticks.
    let (bed, still) = (Bed::new(&runtime), Bed::new(&asleep));
    let call = Call::one();
    let (labels, request) = (call.collected(), call.request());
    let g = direct(true);
    let guarded = ArcSwap::from_pointee(17_u64);
    let services: Vec<_> =
        steps().into_iter().zip(0..).map(|((name, rules), n)| (name, bed.service(&format!("s{n}"), &rules))).collect();
    let exact = still.service("exact", &[Rule::plain()]);
    let three = bed.service("three", &last_of(3));
    let web = Quota::new().method(METHOD).labels(&request);
    let written = Quota::new().method(METHOD).labels(&call);

    let mut rows = Rows::new();
    rows.add(G, || g.check());
    rows.add("the guard of an ArcSwap", || **guarded.load());
    rows.add("the machine's clock", Instant::now);
    for (name, kind, key) in
        [("a header of a LabelSet", LabelKind::Header, USER), ("a parameter of it", LabelKind::Query, REGION)]
    {
        let labels = &labels;
        rows.add(name, move || black_box(labels).get(kind, black_box(key)).map(|value| value.len()));
    }
    for (name, handle) in &services {
        rows.add(name, || by_handle(handle, &labels));
    }
    rows.add("1 rule of no label, while the clock does not tick", || by_handle(&exact, &labels));
    rows.add("3 rules, labels of a LabelSet", || by_handle(&three, &labels));
    rows.add("3 rules, labels of a type of one's own", || three.check(black_box(&written)));
    rows.add("3 rules, labels of an HTTP request", || three.check(black_box(&web)));
    let measured = rows.measure(effort);
    for (name, _) in rows.each() {
        let mut beside = measured.beside(name, G);
        if name.starts_with("1 rule") {
            let more = polarismesh_benches::harness::median(measured.of(name))
                - polarismesh_benches::harness::median(measured.of(NO_LABEL));
            beside += &format!("; {:+.1} ns to no label", more * 1e9);
        }
        table.shown(name, measured.text(name), beside);
    }
    drop(rows);
    drop((services, three, exact));
    bed.end();
    still.end();
}

fn steps() -> Vec<(&'static str, Vec<Rule>)> {
    let is = |value: &str| Some(Value::Is(value.to_owned()));
    let one = || last_of(1)[0].clone();
    let amounts = |amounts: &[(u32, u64)]| Rule { amounts: amounts.to_vec(), ..Rule::plain() };
    vec![
        ("no rules", vec![]),
        (
            "1 rule of another method, which does not hold",
            vec![Rule { method: Some("/orders/other"), ..Rule::plain() }],
        ),
        (NO_LABEL, vec![Rule::plain()]),
        ("1 rule of no label, refused", vec![Rule::plain().at_most(1)]),
        ("1 rule of no label, two amounts", vec![amounts(&[(MANY, 1), (MANY, 60)])]),
        ("1 rule of no label, of calls at once", vec![Rule { what: What::AtOnce, ..Rule::plain() }]),
        ("1 rule of no label, of pace", vec![Rule { what: What::Pace, ..amounts(&[(1_000_000_000, 1)]) }]),
        ("1 rule of method", vec![Rule { method: Some(METHOD), ..Rule::plain() }]),
        ("1 rule of method and 1 label", vec![Rule { region: None, ..one() }]),
        ("1 rule of method and 2 labels", vec![one()]),
        ("1 rule of method and 2 labels, one REGEX", vec![Rule { user: Some(Value::Like("^user-[0-9]+$")), ..one() }]),
        ("1 rule of 1 label, counted apart", vec![Rule { user: Some(Value::Any), ..Rule::plain() }]),
        ("3 rules of method and 2 labels, none holds", last_of(4)[..3].to_vec()),
        ("3 rules of no label, all hold", vec![Rule::plain(); 3]),
        ("1 rule of method and 2 labels, of which one is another", vec![Rule { region: is("west"), ..one() }]),
    ]
}

/// What a quota that is there gives without waiting.
#[inline]
pub fn at_once(future: GetQuotaFuture) -> Permit {
    match pin!(future).as_mut().poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(permit) => permit.expect("a permit"),
        Poll::Pending => panic!("a quota on warm data waits"),
    }
}
