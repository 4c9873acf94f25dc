//! The Rust SDK for [Polaris Mesh](https://polarismesh.cn): register a service, find others, pick an instance per call.
//!
//! # What it does
//!
//! A [`SdkContext`] holds the configuration, the connections, the caches and the tasks; the APIs are cheap handles of it.
//!
//! | task | start at |
//! |---|---|
//! | bootstrap: file, environment, builder | [`SdkContext`], [`SdkContextBuilder`], [`config`] |
//! | register, beat, change, leave | [`ProviderApi`], [`Register`], [`Registration`] |
//! | one instance for a call | [`ConsumerApi::get_one_instance`], [`ServiceHandle::pick`] |
//! | route: by rules, metadata and place | [`Pick`], [`Labels`], [the chain](#routing-and-balancing) |
//! | balance: by weight, load or key | [`Pick::balancer`], [`Pick::hash_key`], [the policies](#policies-of-balancing) |
//! | explain where a request goes | [`RouterApi::explain`] |
//! | route and balance a list of your own | [`RouterApi::route`], [`RouterApi::balance`] |
//! | limit the calls that are served | [`LimitApi`], [`LimitHandle`], [`RateLimitLayer`], [what rules mean](#limiting) |
//! | plug in a router, a policy, weights | [`ServiceRouter`], [`LoadBalancer`], [`WeightAdjuster`] |
//! | tell how a call went, retry elsewhere | [`ServiceHandle::start_call`], [`ServiceHandle::call`], [`Outcome`] |
//! | follow a service | [`ConsumerApi::watch_instances`], [`ServiceInstances::diff`] |
//! | readiness probes, freshness of data | [`SdkContext::state`], [`ServiceHandle::freshness`] |
//! | stop in order | [`SdkContext::shutdown`], [`Registration::deregister_when`] |
//! | test without a server | `testing`, with the feature of that name |
//!
//! # What it does not do, yet
//!
//! Circuit breaking and the configuration centre; of routing, lanes and sets. Configuration keys of theirs are accepted and
//! have no effect.
//!
//! # How it behaves
//!
//! * **Nothing before it is needed.** Building a context does no I/O. The first question dials, the first registration
//!   starts the thread that beats, a service is loaded when it is first asked for, and forgotten a day after it was last.
//! * **Every wait has a deadline**, but those that say in so many words that they wait for a server to come
//!   ([`Registration::registered`]) or for news (watches). Dropping a future is safe: each `async fn` says what that does.
//! * **The last good data serves** when servers fail; [`Freshness`] tells its age and source. An empty answer after a full
//!   one is believed only once it has been seen for a while (`consumer.localCache.emptyGuard`).
//! * **Errors** are one word wide, [`Clone`], and name what, where and after how long: see [`ErrorKind`] for what to do.
//! * **Tasks** run on the runtime that was current when the context was built, never on a caller's; beats run on a thread
//!   of their own (`provider.heartbeat.ownThread`).
//! * **Logs** are [`tracing`](https://docs.rs/tracing) events at state edges: nothing per pick, nothing per retry.
//!
#![doc = include_str!("../docs/routing.md")]
//!
#![doc = include_str!("../docs/limiting.md")]
//!
#![doc = include_str!("../docs/programs.md")]
#![cfg_attr(docsrs, feature(doc_cfg))]
#![forbid(unsafe_code)]

/// Holds the README to what it says: its programs are compiled with the tests.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

mod api;
mod balance;
pub mod config;
mod context;
mod engine;
mod error;
mod integration;
mod limit;
mod model;
mod pb;
mod plugin;
mod registry;
mod routing;
#[cfg(feature = "testing")]
pub mod testing;
mod transport;
mod util;
mod wire;

pub use crate::api::consumer::{ConsumerApi, GetInstancesFuture, GetOneInstanceFuture};
pub use crate::api::handle::ServiceHandle;
pub use crate::api::limit::{LimitApi, LimitHandle};
pub use crate::api::provider::{ProviderApi, Registration, RegistrationWatch};
pub use crate::api::router::{RouteInstances, RouterApi};
pub use crate::api::watch::{InstanceWatch, ServicesWatch};
pub use crate::balance::{Criteria, LoadBalancer, Selector, WeightAdjuster};
pub use crate::context::{ContextState, SdkContext, SdkContextBuilder, ShutdownError, StateWatch, Trouble};
pub use crate::engine::call::{Attempts, Call, CallError};
pub use crate::engine::future::ConsumerFuture;
pub use crate::engine::quota::active::RuleUsage;
pub use crate::engine::quota::future::GetQuotaFuture;
pub use crate::engine::quota::outcome::{Decision, Limited, Permit, QuotaError, Ticket};
pub use crate::engine::record::RegistrationState;
pub use crate::error::{Error, ErrorKind, Result, ServerCode};
pub use crate::integration::tower::body::RateLimitBody;
pub use crate::integration::tower::future::RateLimitFuture;
pub use crate::integration::tower::labels::ExtractLabels;
pub use crate::integration::tower::layer::RateLimitLayer;
pub use crate::integration::tower::service::RateLimit;
pub use crate::model::call::{Classify, Outcome};
pub use crate::model::health::Load;
pub use crate::model::instance::{Instance, InstanceAddr, InstanceId};
pub use crate::model::key::{ResourceKind, Revision, ServiceKey, ServiceKeyRef};
pub use crate::model::label::{LabelKind, Labels};
pub use crate::model::label_set::LabelSet;
pub use crate::model::location::Location;
pub use crate::model::metadata::Metadata;
pub use crate::model::namespace::Namespace;
pub use crate::model::request::asks::{MetadataFailover, RuleFailover};
pub use crate::model::request::instance::{GetInstances, GetOneInstance, Pick};
pub use crate::model::request::quota::{GetQuota, Quota};
pub use crate::model::request::registration::{Deregister, Heartbeat, Register};
pub use crate::model::request::tried::Tried;
pub use crate::model::rule_kind::RuleKind;
pub use crate::model::service::{InstanceChange, ServiceInfo, ServiceInstances, ServiceList};
pub use crate::model::snapshot::{Freshness, RuleSet, Source, Update};
pub use crate::model::subset::Subset;
pub use crate::routing::explain::{ExplainedRoute, ExplainedStep, Explanation};
pub use crate::routing::router::{Chooser, Dependence, RouteFilter, RouteRequest, Routed, ServiceRouter};
pub use crate::routing::surroundings::Surroundings;
pub use crate::transport::{Tls, TokenSource};
