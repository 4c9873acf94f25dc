//! Reads an instance in place, without an allocation of its own.

use crate::model::build::InstanceParts;
use crate::wire::reader::{Malformed, Raw, Reader, low_u32, text_of};

/// Tags of `v1.Instance`, as far as a snapshot has a use for them.
mod tag {
    pub(super) const ID: u32 = 1;
    pub(super) const HOST: u32 = 4;
    pub(super) const PORT: u32 = 5;
    pub(super) const PROTOCOL: u32 = 6;
    pub(super) const VERSION: u32 = 7;
    pub(super) const WEIGHT: u32 = 9;
    pub(super) const HEALTHY: u32 = 11;
    pub(super) const ISOLATE: u32 = 12;
    pub(super) const LOCATION: u32 = 13;
    pub(super) const METADATA: u32 = 14;
}

/// Reads one instance after another, and keeps room for the metadata of the last one.
#[derive(Default)]
pub(super) struct InstanceReader<'a> {
    metadata: Vec<(&'a str, &'a str)>,
}

impl<'a> InstanceReader<'a> {
    /// The parts of an instance; what is absent has the value that a server assumes, and a field of a wire type that
    /// does not fit counts as absent.
    pub(super) fn read(&mut self, bytes: &'a [u8]) -> Result<InstanceParts<'a>, Malformed> {
        self.metadata.clear();
        let mut parts = InstanceParts::default();
        let mut reader = Reader::new(bytes);
        while let Some((tag, raw)) = reader.field()? {
            // Every field that is read here is a message: a wrapper, a location, or an entry of the metadata.
            let Raw::Bytes(inner) = raw else { continue };
            match tag {
                tag::ID => parts.id = text(inner)?,
                tag::HOST => parts.host = text(inner)?,
                tag::PORT => parts.port = low_u32(number(inner)?),
                tag::PROTOCOL => parts.protocol = text(inner)?,
                tag::VERSION => parts.version = text(inner)?,
                tag::WEIGHT => parts.weight = low_u32(number(inner)?),
                tag::HEALTHY => parts.healthy = number(inner)? != 0,
                tag::ISOLATE => parts.isolated = number(inner)? != 0,
                tag::LOCATION => location(&mut parts.location, inner)?,
                tag::METADATA => self.metadata.push(entry(inner)?),
                _ => {}
            }
        }
        // Servers send maps in any order. The sort is stable: of equal keys the last one stays the last.
        self.metadata.sort_by_key(|(key, _)| *key);
        Ok(parts)
    }

    /// The metadata of the instance that was read last, ordered by key.
    pub(super) fn metadata(&self) -> &[(&'a str, &'a str)] {
        &self.metadata
    }
}

/// The text in a wrapper; empty where it holds none.
fn text(wrapper: &[u8]) -> Result<&str, Malformed> {
    let mut found = "";
    let mut reader = Reader::new(wrapper);
    while let Some((tag, raw)) = reader.field()? {
        if let (1, Raw::Bytes(bytes)) = (tag, raw) {
            found = text_of(bytes)?;
        }
    }
    Ok(found)
}

/// The number, or the bool, in a wrapper; 0 where it holds none.
fn number(wrapper: &[u8]) -> Result<u64, Malformed> {
    let mut found = 0;
    let mut reader = Reader::new(wrapper);
    while let Some((tag, raw)) = reader.field()? {
        if let (1, Raw::Varint(value)) = (tag, raw) {
            found = value;
        }
    }
    Ok(found)
}

fn location<'a>(place: &mut (&'a str, &'a str, &'a str), bytes: &'a [u8]) -> Result<(), Malformed> {
    let mut reader = Reader::new(bytes);
    while let Some((tag, raw)) = reader.field()? {
        match (tag, raw) {
            (1, Raw::Bytes(region)) => place.0 = text(region)?,
            (2, Raw::Bytes(zone)) => place.1 = text(zone)?,
            (3, Raw::Bytes(campus)) => place.2 = text(campus)?,
            _ => {}
        }
    }
    Ok(())
}

/// Key and value of an entry; either may be left out, and is empty then.
fn entry(bytes: &[u8]) -> Result<(&str, &str), Malformed> {
    let mut pair = ("", "");
    let mut reader = Reader::new(bytes);
    while let Some((tag, raw)) = reader.field()? {
        match (tag, raw) {
            (1, Raw::Bytes(key)) => pair.0 = text_of(key)?,
            (2, Raw::Bytes(value)) => pair.1 = text_of(value)?,
            _ => {}
        }
    }
    Ok(pair)
}

#[cfg(test)]
mod tests {
    use prost::Message as _;

    use super::*;
    use crate::pb::v1;

    #[test]
    fn a_field_of_another_wire_type_counts_as_absent() {
        let mut bytes = v1::Instance { host: Some("h".into()), ..v1::Instance::default() }.encode_to_vec();
        bytes.extend([0x48, 0x07]); // weight as a bare number
        let parts = InstanceReader::default().read(&bytes).unwrap().weight;
        assert_eq!(parts, 100);
    }

    #[test]
    fn metadata_is_ordered_and_that_of_the_instance_before_is_gone() {
        let instance = |pairs: &[(&str, &str)]| {
            let metadata = pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
            v1::Instance { metadata, ..v1::Instance::default() }.encode_to_vec()
        };
        // Two messages that follow each other are one, so this holds "b" before "a".
        let one = [instance(&[("b", "1")]), instance(&[("a", "")])].concat();
        let two = instance(&[("c", "2")]);
        let mut reader = InstanceReader::default();
        reader.read(&one).unwrap();
        assert_eq!(reader.metadata(), [("a", ""), ("b", "1")]);
        reader.read(&two).unwrap();
        assert_eq!(reader.metadata(), [("c", "2")]);
    }

    #[test]
    fn text_that_is_not_utf_8_makes_the_one_instance_malformed() {
        assert_eq!(InstanceReader::default().read(&[0x22, 3, 0x0a, 1, 0xff]).unwrap_err(), Malformed::Text);
    }
}
