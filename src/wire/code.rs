//! Codes of answers. They travel in a wrapper or bare, and an absent one is 0, which no server means as success.

use crate::error::{Error, ServerCode};
use crate::pb::v1;
use crate::wire::discovered::DiscoverAnswer;

/// An answer that says how it went.
pub(crate) trait Answered {
    /// The code; 0 where the server sent none.
    fn code(&self) -> ServerCode;

    /// The server's own words.
    fn info(&self) -> &str;

    /// The error that the code stands for. `doing` goes first in its message: `register`.
    fn error(&self, doing: &str) -> Error {
        let words = match self.info() {
            "" => "without a word of explanation",
            info => info,
        };
        Error::from_code(self.code(), format!("{doing}: the server answered: {words}"))
    }
}

impl Answered for v1::Response {
    fn code(&self) -> ServerCode {
        wrapped(self.code)
    }

    fn info(&self) -> &str {
        self.info.as_deref().unwrap_or_default()
    }
}

impl Answered for v1::DiscoverResponse {
    fn code(&self) -> ServerCode {
        wrapped(self.code)
    }

    fn info(&self) -> &str {
        self.info.as_deref().unwrap_or_default()
    }
}

impl Answered for DiscoverAnswer {
    fn code(&self) -> ServerCode {
        self.head.code()
    }

    fn info(&self) -> &str {
        self.head.info()
    }
}

impl Answered for v1::ConfigClientResponse {
    fn code(&self) -> ServerCode {
        wrapped(self.code)
    }

    fn info(&self) -> &str {
        self.info.as_deref().unwrap_or_default()
    }
}

impl Answered for v1::ConfigClientListResponse {
    fn code(&self) -> ServerCode {
        wrapped(self.code)
    }

    fn info(&self) -> &str {
        self.info.as_deref().unwrap_or_default()
    }
}

impl Answered for v1::ConfigDiscoverResponse {
    fn code(&self) -> ServerCode {
        ServerCode::new(self.code)
    }

    fn info(&self) -> &str {
        &self.info
    }
}

fn wrapped(code: Option<u32>) -> ServerCode {
    ServerCode::new(code.unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;

    #[test]
    fn an_absent_code_is_zero_and_no_success() {
        let error = v1::Response::default().error("registering a/b");
        assert_eq!((error.kind(), error.server_code()), (ErrorKind::Server, Some(ServerCode::new(0))));
    }

    #[test]
    fn an_unknown_code_is_kept_as_it_came() {
        let answer = v1::Response { code: Some(499_123), info: Some("new trouble".into()), ..Default::default() };
        let error = answer.error("registering a/b");
        assert_eq!(error.server_code(), Some(ServerCode::new(499_123)));
        let text = error.to_string();
        assert!(text.contains("registering a/b") && text.contains("new trouble"), "{text}");
    }

    #[test]
    fn every_code_of_the_200_family_is_success() {
        for code in [200_000, 200_001, 200_002] {
            assert!(v1::Response { code: Some(code), ..Default::default() }.code().is_success());
        }
    }
}
