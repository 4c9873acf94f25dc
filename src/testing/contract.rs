//! Service contracts, which servers have since 1.18.

use tokio::time::Instant;

use super::answer::{NO_CHANGE, OK, response};
use super::behaviour::Release;
use super::sha1;
use super::store::State;
use crate::model::key::ServiceKey;
use crate::pb::v1;

impl State {
    /// Takes the interfaces of a service. They get new revisions every time, also when nothing changed.
    pub(super) fn report_contract(&mut self, request: &v1::ServiceContract, now: Instant) -> v1::Response {
        if request.interfaces.iter().any(|interface| interface.path.trim().is_empty()) {
            return v1::Response { info: Some("bad request".to_owned()), ..response(400_000) };
        }
        let id = contract_id(request);
        let stamp = self.timestamp(now);
        let mut contract = request.clone();
        contract.id.clone_from(&id);
        contract.revision = self.revision();
        contract.ctime = self.contracts.get(&id).map_or_else(|| stamp.clone(), |before| before.ctime.clone());
        contract.mtime.clone_from(&stamp);
        if contract.r#type.is_empty() {
            contract.r#type.clone_from(&contract.name);
        }
        for interface in &mut contract.interfaces {
            let source = interface.source.to_string();
            interface.id =
                sha1::hex([[id.as_str(), &interface.method, &interface.path, &interface.name, &source].join("##")]);
            interface.revision = self.revision();
            interface.ctime.clone_from(&stamp);
            interface.mtime.clone_from(&stamp);
            if interface.r#type.is_empty() {
                interface.r#type.clone_from(&interface.name);
            }
        }
        self.contracts.insert(id, contract);
        response(OK)
    }

    /// The interfaces that were reported of a service.
    pub(super) fn get_contract(&self, request: &v1::ServiceContract) -> v1::Response {
        let echo = |code| v1::Response { service_contract: Some(request.clone()), ..response(code) };
        if request.name.is_empty() || request.service.is_empty() {
            return echo(400_103);
        }
        if request.namespace.is_empty() {
            return echo(400_110);
        }
        let asked = ServiceKey::new(&request.namespace, &request.service);
        let real = self.resolve(&asked).map_or_else(|| asked.clone(), |(real, _)| real);
        let id = contract_id(&v1::ServiceContract {
            id: String::new(),
            namespace: real.namespace().to_owned(),
            service: real.service().to_owned(),
            ..request.clone()
        });
        let service = v1::Service {
            namespace: Some(request.namespace.clone()),
            name: Some(request.service.clone()),
            ..Default::default()
        };
        let Some(contract) = self.contracts.get(&id) else { return self.no_contract(service) };
        if contract.revision == request.revision {
            return v1::Response { service: Some(service), ..response(NO_CHANGE) };
        }
        let service = v1::Service { revision: Some(contract.revision.clone()), ..service };
        let mut contract = contract.clone();
        if self.behaviour.release < Release::Main {
            contract.r#type.clear();
        }
        v1::Response { service: Some(service), service_contract: Some(contract), ..response(OK) }
    }

    fn no_contract(&self, service: v1::Service) -> v1::Response {
        if self.behaviour.release < Release::Main {
            return v1::Response { service: Some(service), ..response(400_202) };
        }
        let never = "0001-01-01 00:00:00".to_owned();
        let contract = v1::ServiceContract { ctime: never.clone(), mtime: never, ..Default::default() };
        let service = v1::Service { revision: Some(String::new()), ..service };
        v1::Response { service: Some(service), service_contract: Some(contract), ..response(OK) }
    }
}

fn contract_id(contract: &v1::ServiceContract) -> String {
    if !contract.id.is_empty() {
        return contract.id.clone();
    }
    let parts = [&contract.namespace, &contract.service, &contract.name, &contract.protocol, &contract.version];
    sha1::hex([parts.map(String::as_str).join("##")])
}
