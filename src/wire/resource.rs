//! Answers of the Discover stream into what they say, and resources to bytes and back for the disk cache.

use std::sync::Arc;

use prost::Message as _;

use crate::error::{Error, ErrorKind, ServerCode};
use crate::model::key::{ResourceKind, ServiceEventKey, ServiceKey};
use crate::model::snapshot::{Answer, Resource};
use crate::pb::v1;
use crate::wire::code::Answered;
use crate::wire::discovered::DiscoverAnswer;
use crate::wire::json::InvalidJson;
use crate::wire::reader::Malformed;
use crate::wire::request::kind_of;
use crate::wire::{instance, rule};

/// A resource that cannot be read, or written.
#[derive(Debug, thiserror::Error)]
pub(crate) enum InvalidResource {
    #[error("these bytes are no answer of a server: {0}")]
    Bytes(#[from] prost::DecodeError),
    #[error("the rules cannot be shown: {0}")]
    Rules(#[from] Malformed),
    #[error("the rules cannot be kept: {0}")]
    Json(#[from] InvalidJson),
}

/// What an answer says of itself: which kind, and which service. Servers leave either out, or have it wrong, in some
/// of their errors, so this confirms the order of questions and does not replace it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Subject {
    pub(crate) kind: Option<ResourceKind>,
    /// With empty names where the server left them empty.
    pub(crate) service: Option<ServiceKey>,
}

pub(crate) fn subject(response: &v1::DiscoverResponse) -> Subject {
    let key = |service: &v1::Service| {
        ServiceKey::new(service.namespace.as_deref().unwrap_or_default(), service.name.as_deref().unwrap_or_default())
    };
    Subject { kind: kind_of(response.r#type), service: response.service.as_ref().map(key) }
}

/// What `response` says about `key`, the oldest question that was not answered yet.
pub(crate) fn answer(key: &ServiceEventKey, response: impl Into<DiscoverAnswer>) -> Answer {
    let response = response.into();
    let code = response.code();
    let failed = |error: Error| Answer::Failed(error.with_service(key.service.text()));
    match code {
        ServerCode::NO_CHANGE => Answer::Unchanged,
        ServerCode::INVALID_DISCOVER_RESOURCE => Answer::Unsupported,
        code if code.is_service_not_found() => Answer::NotFound { code, info: response.info().to_owned() },
        code if code.is_success() => match subject(&response.head).kind {
            Some(kind) if kind == key.kind => full(key, response).unwrap_or_else(|why| {
                failed(Error::new(ErrorKind::InvalidRule, format!("discovering {}", key.kind)).with_source(why))
            }),
            other => {
                let other = other.map_or("something else", ResourceKind::as_str);
                let context = format!("discovering {}: the server answered with {other}", key.kind);
                failed(Error::new(ErrorKind::Server, context))
            }
        },
        _ => failed(response.error(&format!("discovering {}", key.kind))),
    }
}

fn full(key: &ServiceEventKey, response: DiscoverAnswer) -> Result<Answer, InvalidResource> {
    let (resource, skipped) = resource(key, response)?;
    Ok(Answer::Full { resource, skipped })
}

fn resource(key: &ServiceEventKey, response: DiscoverAnswer) -> Result<(Resource, Vec<String>), InvalidResource> {
    Ok(match key.kind {
        ResourceKind::Instances => {
            let (instances, skipped) = instance::instances(key, &response);
            (Resource::Instances(Arc::new(instances)), skipped.into_messages())
        }
        ResourceKind::Services => {
            let (services, skipped) = instance::services(key, &response.head);
            (Resource::Services(Arc::new(services)), skipped.into_messages())
        }
        _ => {
            let (rules, skipped) = rule::rules(key, response.head)?;
            (Resource::Rules(Arc::new(rules)), skipped)
        }
    })
}

/// The bytes of `resource`: those of an answer that [`decode`] turns into the same resource.
pub(crate) fn encode(resource: &Resource) -> Result<Vec<u8>, InvalidResource> {
    Ok(match resource {
        Resource::Instances(instances) => instance::instances_answer(instances).encode_to_vec(),
        Resource::Services(services) => instance::services_answer(services).encode_to_vec(),
        Resource::Rules(rules) => rule::answer_bytes(rules)?,
    })
}

/// The resource of `key` that [`encode`] wrote. Items that cannot be used are left out, as from a server.
pub(crate) fn decode(key: &ServiceEventKey, bytes: &[u8]) -> Result<Resource, InvalidResource> {
    Ok(resource(key, DiscoverAnswer::decode(bytes)?)?.0)
}
