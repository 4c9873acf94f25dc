//! Who may do what: tokens, when the control plane asks for them.

use std::collections::BTreeMap;

use super::behaviour::Release;

/// What the owner of a token may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Grant {
    /// Everything.
    Administrator,
    /// The user is known and has no permission.
    NoPermission,
    /// The token was switched off.
    Disabled,
}

/// The tokens, if they are asked for at all.
#[derive(Default)]
pub(super) struct Access {
    tokens: Option<BTreeMap<String, Grant>>,
}

/// What a call wants to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Action {
    Read,
    Write,
}

impl Access {
    /// From now on a token is needed, and this one is known.
    pub(super) fn grant(&mut self, token: &str, grant: Grant) {
        self.tokens.get_or_insert_default().insert(token.to_owned(), grant);
    }

    /// From now on a token is needed; none is known.
    pub(super) fn close(&mut self) {
        self.tokens = Some(BTreeMap::new());
    }

    /// Nobody needs a token any more.
    pub(super) fn open(&mut self) {
        self.tokens = None;
    }

    /// Whether the call may go on, or the code it is refused with. `header` is the token of the metadata, `body` that
    /// of the message, which counts more.
    pub(super) fn check(
        &self,
        release: Release,
        action: Action,
        header: Option<&str>,
        body: Option<&str>,
    ) -> Result<(), u32> {
        const REFUSED: u32 = 401_001;
        const DISABLED: u32 = 401_003;

        let Some(tokens) = &self.tokens else { return Ok(()) };
        // Releases up to 1.17 do not read the header.
        let header = header.filter(|_| release >= Release::V1_18);
        let token = body.filter(|token| !token.is_empty()).or(header).unwrap_or_default();
        let lenient = release == Release::V1_18 && action == Action::Read;
        match tokens.get(token) {
            Some(Grant::Administrator) => Ok(()),
            Some(Grant::NoPermission | Grant::Disabled) if lenient => Ok(()),
            Some(Grant::Disabled) => Err(DISABLED),
            Some(Grant::NoPermission) | None => Err(REFUSED),
        }
    }
}

impl std::fmt::Debug for Access {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Never the tokens themselves.
        let known = self.tokens.as_ref().map(BTreeMap::len);
        f.debug_struct("Access").field("tokens", &known).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_are_those_of_the_releases() {
        let mut access = Access::default();
        let check = |access: &Access, release, action, token| access.check(release, action, token, None);
        assert_eq!(check(&access, Release::Main, Action::Write, None), Ok(()));
        access.close();
        access.grant("root", Grant::Administrator);
        access.grant("guest", Grant::NoPermission);
        access.grant("gone", Grant::Disabled);
        for (token, main, read_1_18, write_1_18) in [
            (None, Err(401_001), Err(401_001), Err(401_001)),
            (Some("unknown"), Err(401_001), Err(401_001), Err(401_001)),
            (Some("guest"), Err(401_001), Ok(()), Err(401_001)),
            (Some("gone"), Err(401_003), Ok(()), Err(401_003)),
            (Some("root"), Ok(()), Ok(()), Ok(())),
        ] {
            assert_eq!(check(&access, Release::Main, Action::Read, token), main, "{token:?}");
            assert_eq!(check(&access, Release::Main, Action::Write, token), main, "{token:?}");
            assert_eq!(check(&access, Release::V1_18, Action::Read, token), read_1_18, "{token:?}");
            assert_eq!(check(&access, Release::V1_18, Action::Write, token), write_1_18, "{token:?}");
            assert_eq!(check(&access, Release::V1_17, Action::Read, token), Err(401_001), "{token:?}");
        }
        assert_eq!(access.check(Release::V1_17, Action::Write, None, Some("root")), Ok(()));
        assert!(!format!("{access:?}").contains("root"));
        access.open();
        assert_eq!(check(&access, Release::Main, Action::Write, None), Ok(()));
    }
}
