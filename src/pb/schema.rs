//! What the messages look like, as data: for reading and writing them as JSON by one piece of code.
//!
//! prost's types forget names, and code generated a second time for JSON would be as large as the messages themselves.
//! So the generator writes a table of fields next to them, and the JSON of `wire` walks that table.

include!("generated/schema.rs");

/// A message and its fields, ordered by tag.
#[derive(Debug)]
pub(crate) struct Message {
    /// With its package: `v1.Instance`.
    pub(crate) name: &'static str,
    pub(crate) fields: &'static [Field],
}

/// One field of a message.
#[derive(Debug)]
pub(crate) struct Field {
    pub(crate) tag: u32,
    /// As the specification spells it.
    pub(crate) name: &'static str,
    /// As JSON spells it.
    pub(crate) json: &'static str,
    pub(crate) shape: Shape,
    pub(crate) kind: Kind,
}

/// How often a field may stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Shape {
    /// Once; the last one counts.
    One,
    /// Any number of times, in order.
    Many,
    /// A map from text to the field's kind.
    Map,
}

/// What a field, an element of a list or a value of a map holds.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Kind {
    /// A value whose absence and default are the same.
    Plain(Scalar),
    /// A value in a message of its own, so that absence and default differ.
    Wrapped(Scalar),
    /// A number with names for those that are known.
    Enum(&'static [(i32, &'static str)]),
    Message(&'static Message),
    Duration,
    Any,
}

/// A value without fields.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scalar {
    Text,
    Bool,
    Int32,
    Uint32,
    Int64,
    Uint64,
    Float,
}

/// The message of this full name, if `proto/` declares it.
pub(crate) fn find(name: &str) -> Option<&'static Message> {
    MESSAGES.binary_search_by(|message| message.name.cmp(name)).ok().and_then(|at| MESSAGES.get(at).copied())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_message_is_found_by_its_name() {
        for message in MESSAGES {
            assert!(find(message.name).is_some_and(|found| std::ptr::eq(found, *message)), "{}", message.name);
        }
        assert!(find("v1.Nothing").is_none());
    }

    #[test]
    fn tags_that_were_reused_stay_undeclared() {
        for (message, tag) in
            [("v1.Service", 26), ("v1.Namespace", 18), ("v1.DiscoverResponse", 12), ("v1.LaneGroup", 20)]
        {
            assert!(find(message).unwrap().fields.iter().all(|field| field.tag != tag), "{message} declares {tag}");
        }
    }
}
