//! The console's HTTP API of a real server, for what no SDK does: services, aliases, rules, removing an instance from
//! outside.

#![allow(clippy::panic, clippy::indexing_slicing, reason = "a test that cannot go on fails")]

use std::io;

use polarismesh::ServiceKey;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// The token of the administrator that every fresh server is delivered with; it is public.
const TOKEN: &str = "nu/0WRA4EqSR1FagrjRj0fZwPXuGlMpX+zCuWu4uMqy8xr1vRjisSbA25aAC3mtU8MeeRsKhQiDAynUR09I=";

/// All is well; it was there already; nothing is different.
const FINE: [u64; 3] = [200_000, 400_201, 200_002];

/// The console of the server under test.
#[derive(Debug, Clone)]
pub struct Console {
    address: String,
}

impl Console {
    /// The console that `POLARIS_CONSOLE_ADDRESS` names, else the port before the gRPC port of `server`, which is where
    /// stock configurations put it.
    pub fn beside(server: &str) -> Self {
        let address = std::env::var("POLARIS_CONSOLE_ADDRESS").unwrap_or_else(|_| {
            let (host, port) = server.rsplit_once(':').expect("host:port");
            format!("{host}:{}", port.parse::<u16>().expect("a port") - 1)
        });
        Self { address }
    }

    /// Makes a service, or gives the one that is there this metadata.
    pub async fn service(&self, key: &ServiceKey, metadata: Value) {
        let service = json!([{"namespace": key.namespace(), "name": key.service(), "owners": "polaris",
            "metadata": metadata}]);
        self.post("/naming/v1/services", &service).await;
        self.put("/naming/v1/services", &service).await;
    }

    /// Makes a routing rule; its id.
    pub async fn rule(&self, rule: &Value) -> String {
        let made = self.post("/naming/v2/routings", &json!([rule])).await;
        let id = made.pointer("/responses/0/data/id").and_then(Value::as_str);
        id.unwrap_or_else(|| panic!("a rule that is made has an id: {made}")).to_owned()
    }

    /// Replaces a routing rule.
    pub async fn change_rule(&self, id: &str, rule: &Value) {
        let mut whole = rule.clone();
        whole["id"] = json!(id);
        self.put("/naming/v2/routings", &json!([whole])).await;
    }

    /// Switches a routing rule on or off.
    pub async fn enable_rule(&self, id: &str, enable: bool) {
        self.put("/naming/v2/routings/enable", &json!([{"id": id, "enable": enable}])).await;
    }

    /// Takes a routing rule away.
    pub async fn remove_rule(&self, id: &str) {
        self.post("/naming/v2/routings/delete", &json!([{"id": id}])).await;
    }

    /// Makes a rate-limit rule; its id.
    pub async fn limit(&self, rule: &Value) -> String {
        let made = self.post("/naming/v1/ratelimits", &json!([rule])).await;
        let id = made.pointer("/responses/0/rateLimit/id").and_then(Value::as_str);
        id.unwrap_or_else(|| panic!("a rule that is made has an id: {made}")).to_owned()
    }

    /// Replaces a rate-limit rule.
    pub async fn change_limit(&self, id: &str, rule: &Value) {
        let mut whole = rule.clone();
        whole["id"] = json!(id);
        self.put("/naming/v1/ratelimits", &json!([whole])).await;
    }

    /// Switches a rate-limit rule on or off.
    pub async fn enable_limit(&self, id: &str, enable: bool) {
        self.put("/naming/v1/ratelimits/enable", &json!([{"id": id, "disable": !enable}])).await;
    }

    /// Takes a rate-limit rule away.
    pub async fn remove_limit(&self, id: &str) {
        self.post("/naming/v1/ratelimits/delete", &json!([{"id": id}])).await;
    }

    /// Posts JSON, and panics unless the server says that all is well.
    pub async fn post(&self, path: &str, body: &Value) -> Value {
        self.send("POST", path, body).await
    }

    /// As [`Self::post`], for what is there already.
    pub async fn put(&self, path: &str, body: &Value) -> Value {
        self.send("PUT", path, body).await
    }

    async fn send(&self, method: &str, path: &str, body: &Value) -> Value {
        let answer = self.request(method, path, &body.to_string()).await.expect("the console answers");
        let json = answer.split_once("\r\n\r\n").and_then(|(_, json)| serde_json::from_str::<Value>(json).ok());
        let json = json.unwrap_or_else(|| panic!("{method} {path}: {answer}"));
        // A batch of one that is refused has a code of its own, and so has the whole.
        let code = json.pointer("/responses/0/code").or_else(|| json.get("code")).and_then(Value::as_u64);
        assert!(code.is_some_and(|code| FINE.contains(&code)), "{method} {path} {body}: {json}");
        json
    }

    async fn request(&self, method: &str, path: &str, body: &str) -> io::Result<String> {
        let mut stream = TcpStream::connect(&self.address).await?;
        // 1.0, so that long answers come in one piece.
        let head = format!(
            "{method} {path} HTTP/1.0\r\nHost: {}\r\nX-Polaris-Token: {TOKEN}\r\nContent-Type: application/json\r\n\
             Content-Length: {}\r\n\r\n",
            self.address,
            body.len()
        );
        stream.write_all(head.as_bytes()).await?;
        stream.write_all(body.as_bytes()).await?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await?;
        Ok(String::from_utf8_lossy(&answer).into_owned())
    }
}
