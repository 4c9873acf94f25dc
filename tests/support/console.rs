//! The console's HTTP API of a real server, for what no SDK does: aliases, rules, removing an instance from outside.

use std::io;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// The token of the administrator that every fresh server is delivered with; it is public.
const TOKEN: &str = "nu/0WRA4EqSR1FagrjRj0fZwPXuGlMpX+zCuWu4uMqy8xr1vRjisSbA25aAC3mtU8MeeRsKhQiDAynUR09I=";

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

    /// Posts JSON, and panics unless the server says 200000 (or that it is there already).
    pub async fn post(&self, path: &str, body: &str) -> String {
        let answer = self.request("POST", path, body).await.expect("the console answers");
        // The server's JSON has blanks behind its colons at times.
        let squeezed = answer.replace(": ", ":");
        let fine = squeezed.contains("\"code\":200000") || squeezed.contains("\"code\":400201");
        assert!(fine, "POST {path}: {answer}");
        answer
    }

    async fn request(&self, method: &str, path: &str, body: &str) -> io::Result<String> {
        let mut stream = TcpStream::connect(&self.address).await?;
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: {}\r\nX-Polaris-Token: {TOKEN}\r\nContent-Type: application/json\r\n\
             Content-Length: {}\r\nConnection: close\r\n\r\n",
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
