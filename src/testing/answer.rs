//! The shapes of answers: code, text, and what is echoed.

use prost::Message;

use crate::pb::v1;

pub(super) const OK: u32 = 200_000;
pub(super) const NO_CHANGE: u32 = 200_001;

/// What the server says to a code.
pub(super) fn info(code: u32) -> &'static str {
    match code {
        200_000 => "execute success",
        200_001 => "discover data is no change",
        400_000 => "bad request: service is alias",
        400_002 => "empty request",
        400_004 => "invalid discover resource",
        400_103 => "invalid parameter",
        400_110 => "invalid namespace name",
        400_120 => "invalid service name",
        400_130 => "invalid instance id",
        400_131 => "invalid instance host",
        400_132 => "invalid instance port",
        400_136 => "invalid instance protocol",
        400_137 => "invalid instance version",
        400_138 => "invalid instance logic set",
        400_140 => "server not open health check",
        400_141 => "heartbeat on disabled instance",
        400_150 => "the length of metadata is too long or metadata contains invalid characters",
        400_202 => "not found resource",
        400_208 => "another request is processing the same instance",
        400_301 => "not found service",
        400_401 => "client api is not open",
        401_001 => "access is not approved: invalid token",
        401_003 => "access is not approved: token is disabled",
        403_003 => "server limit the api access",
        404_001 => "not found the host in cmdb",
        429_001 => "your instance has too many requests",
        429_002 => "server limit the ip access",
        500_000 => "execute exception",
        500_001 => "store layer exception",
        500_008 => "instance registration timed out",
        _ => "scripted",
    }
}

/// An answer to a unary call.
pub(super) fn response(code: u32) -> v1::Response {
    v1::Response { code: Some(code), info: Some(info(code).to_owned()), ..Default::default() }
}

/// An answer on the discover stream that has neither type nor service.
pub(super) fn bare(code: u32) -> v1::DiscoverResponse {
    v1::DiscoverResponse { code: Some(code), info: Some(info(code).to_owned()), ..Default::default() }
}

/// An answer on the discover stream that says what it belongs to.
pub(super) fn echo(code: u32, request: &v1::DiscoverRequest) -> v1::DiscoverResponse {
    let service = request.service.as_ref().map(|service| v1::Service {
        namespace: service.namespace.clone(),
        name: service.name.clone(),
        revision: service.revision.clone(),
        ..Default::default()
    });
    v1::DiscoverResponse { r#type: request.r#type, service, ..bare(code) }
}

/// A kind that this server does not serve: answered as routing, whatever was asked.
pub(super) fn unsupported(request: &v1::DiscoverRequest) -> v1::DiscoverResponse {
    let r#type = v1::discover_response::DiscoverResponseType::Routing.into();
    v1::DiscoverResponse { r#type, ..echo(400_004, request) }
}

/// Bytes of an answer; with the flag `deleteable` in its services if the release sends it. That flag has the tag and
/// not the type of what newer specifications declare there.
pub(super) fn encode(mut response: v1::DiscoverResponse, flagged: bool) -> Vec<u8> {
    const SERVICE: u32 = 4;
    const ALIAS_FOR: u32 = 21;

    if !flagged {
        return response.encode_to_vec();
    }
    let services = [(SERVICE, response.service.take()), (ALIAS_FOR, response.alias_for.take())];
    let mut bytes = response.encode_to_vec();
    for (tag, service) in services {
        let Some(service) = service else { continue };
        let mut inner = service.encode_to_vec();
        inner.extend_from_slice(&[0xd2, 0x01, 0x02, 0x08, 0x01]);
        prost::encoding::bytes::encode(tag, &inner, &mut bytes);
    }
    bytes
}

/// The code that an answer starts with.
pub(super) fn code_of(bytes: &[u8]) -> Option<u32> {
    // Field 1, its length, field 1 of the wrapper, the number.
    let [0x0a, _, 0x08, number @ ..] = bytes else { return None };
    let mut number = number;
    prost::encoding::decode_varint(&mut number).ok().and_then(|code| u32::try_from(code).ok())
}

/// The same answer under another revision.
pub(super) fn renamed(bytes: &[u8], revision: &str, flagged: bool) -> Vec<u8> {
    let Ok(mut answer) = v1::DiscoverResponse::decode(bytes) else { return bytes.to_vec() };
    let new = || Some(revision.to_owned());
    if let Some(service) = &mut answer.service {
        service.revision = new();
    }
    if let Some(routing) = &mut answer.routing {
        routing.revision = new();
    }
    if let Some(limits) = &mut answer.rate_limit {
        limits.revision = new();
    }
    if let Some(breakers) = &mut answer.circuit_breaker {
        breakers.revision = new();
    }
    if let Some(probes) = &mut answer.fault_detector {
        revision.clone_into(&mut probes.revision);
    }
    encode(answer, flagged)
}

/// A full answer to the same question, with nothing in it.
pub(super) fn emptied(bytes: &[u8], revision: &str, flagged: bool) -> Vec<u8> {
    let Ok(answer) = v1::DiscoverResponse::decode(bytes) else { return bytes.to_vec() };
    let v1::DiscoverResponse { r#type, service, alias_for, .. } = answer;
    let service = service.map(|service| v1::Service { revision: Some(revision.to_owned()), ..service });
    encode(v1::DiscoverResponse { r#type, service, alias_for, ..bare(OK) }, flagged)
}
