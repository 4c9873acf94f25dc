//! One resource as a file of the disk cache.
//!
//! ```text
//! magic "PLRSDISK" · schema u32 · kind, namespace, service, revision (u32 length + bytes each)
//! · written u64 (ms since 1970) · payload (u64 length + bytes) · FNV-1a u64 of all of that
//! ```
//!
//! Numbers are little-endian. A reader believes nothing: a file is whole, of this schema and of the key that was asked
//! for, or it is skipped. The name is made of the key by percent-encoding, so that no name leads out of the directory.

use std::fmt::Write as _;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::error::{Error, ErrorKind};
use crate::model::key::ServiceEventKey;
use crate::model::snapshot::Resource;
use crate::{util, wire};

const MAGIC: &[u8; 8] = b"PLRSDISK";
const SCHEMA: u32 = 1;
/// Names of files end at 255 bytes nearly everywhere; the rest is for the kind, the temporary name and a hash.
const MAX_NAME: usize = 160;
/// Larger than any answer that is taken: such a file is not ours.
const MAX_FILE: u64 = 512 << 20;

/// What a file had, and when it was written, in milliseconds since 1970.
#[derive(Debug)]
pub(super) struct Cached {
    pub(super) resource: Resource,
    pub(super) written: u64,
}

/// Why a file is skipped.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum BadFile {
    #[error("it is not a cache file of this library")]
    Foreign,
    #[error("its schema is {0}, and this version reads schema {SCHEMA}")]
    Schema(u32),
    #[error("it is damaged")]
    Damaged,
    #[error("it is of another key: {0}")]
    OtherKey(String),
    #[error("its content cannot be read: {0}")]
    Content(String),
}

/// Writes `resource` under `directory`, which is made if it is not there. Blocks.
pub(super) fn save(directory: &Path, key: &ServiceEventKey, resource: &Resource, written: u64) -> Result<(), Error> {
    let path = path(directory, key);
    let payload = wire::resource::encode(resource).map_err(|why| failed("encoding", &path).with_source(why))?;
    let bytes = pack(key, resource.revision().as_str(), written, &payload);
    fs::create_dir_all(directory)
        .and_then(|()| util::fs::replace(&path, &bytes))
        .map_err(|why| failed("writing", &path).with_source(why))
}

/// Removes the file of `key`, if there is one. Blocks.
pub(super) fn remove(directory: &Path, key: &ServiceEventKey) -> Result<(), Error> {
    let path = path(directory, key);
    match fs::remove_file(&path) {
        Err(why) if why.kind() != io::ErrorKind::NotFound => Err(failed("removing", &path).with_source(why)),
        _ => Ok(()),
    }
}

/// Reads the file of `key`; none if there is none. Blocks.
pub(super) fn load(directory: &Path, key: &ServiceEventKey) -> Result<Option<Cached>, Error> {
    let path = path(directory, key);
    let bytes = match read(&path) {
        Ok(bytes) => bytes,
        Err(why) if why.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(why) => return Err(failed("reading", &path).with_source(why)),
    };
    let cached = unpack(key, &bytes).and_then(|(written, payload)| {
        let resource = wire::resource::decode(key, payload).map_err(|why| BadFile::Content(why.to_string()))?;
        Ok(Cached { resource, written })
    });
    cached.map(Some).map_err(|why| {
        Error::new(ErrorKind::CacheIo, format!("the file {} is skipped: {why}", path.display())).with_source(why)
    })
}

fn read(path: &Path) -> io::Result<Vec<u8>> {
    if fs::metadata(path)?.len() > MAX_FILE {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "the file is too large"));
    }
    fs::read(path)
}

fn failed(what: &str, path: &Path) -> Error {
    Error::new(ErrorKind::CacheIo, format!("{what} the file {}", path.display()))
}

fn path(directory: &Path, key: &ServiceEventKey) -> PathBuf {
    directory.join(file_name(key))
}

/// `namespace@service@kind.polaris`; of a long one only the beginning, and a hash of the whole.
fn file_name(key: &ServiceEventKey) -> String {
    let mut name = encoded(key.service.namespace());
    name.push('@');
    name.push_str(&encoded(key.service.service()));
    if name.len() > MAX_NAME {
        let hash = fnv(name.as_bytes());
        name.truncate(MAX_NAME);
        let _ = write!(name, "~{hash:016x}");
    }
    let _ = write!(name, "@{}.polaris", key.kind);
    name
}

/// ASCII, without separators, and not beginning with a dot.
fn encoded(name: &str) -> String {
    let mut out = String::with_capacity(name.len());
    for (at, byte) in name.bytes().enumerate() {
        match byte {
            b'0'..=b'9' | b'A'..=b'Z' | b'a'..=b'z' | b'-' | b'_' => out.push(char::from(byte)),
            b'.' if at > 0 => out.push('.'),
            _ => {
                let _ = write!(out, "%{byte:02X}");
            }
        }
    }
    out
}

fn pack(key: &ServiceEventKey, revision: &str, written: u64, payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(payload.len() + 256);
    bytes.extend_from_slice(MAGIC);
    bytes.extend_from_slice(&SCHEMA.to_le_bytes());
    for text in [key.kind.as_str(), key.service.namespace(), key.service.service(), revision] {
        // Texts came in messages of less than 4 GiB.
        bytes.extend_from_slice(&u32::try_from(text.len()).unwrap_or(u32::MAX).to_le_bytes());
        bytes.extend_from_slice(text.as_bytes());
    }
    bytes.extend_from_slice(&written.to_le_bytes());
    bytes.extend_from_slice(&(payload.len() as u64).to_le_bytes());
    bytes.extend_from_slice(payload);
    let sum = fnv(&bytes);
    bytes.extend_from_slice(&sum.to_le_bytes());
    bytes
}

/// When the file was written, and its payload.
fn unpack<'b>(key: &ServiceEventKey, bytes: &'b [u8]) -> Result<(u64, &'b [u8]), BadFile> {
    let mut reader = Reader(bytes);
    if reader.take(MAGIC.len()) != Some(MAGIC) {
        return Err(BadFile::Foreign);
    }
    match reader.u32().ok_or(BadFile::Damaged)? {
        SCHEMA => {}
        other => return Err(BadFile::Schema(other)),
    }
    let (body, sum) = bytes.split_last_chunk::<8>().ok_or(BadFile::Damaged)?;
    if fnv(body) != u64::from_le_bytes(*sum) {
        return Err(BadFile::Damaged);
    }
    let (found, written, payload) = reader.rest().ok_or(BadFile::Damaged)?;
    if found != [key.kind.as_str(), key.service.namespace(), key.service.service()] {
        let [kind, namespace, service] = found;
        return Err(BadFile::OtherKey(format!("{kind} of {namespace}/{service}")));
    }
    Ok((written, payload))
}

struct Reader<'b>(&'b [u8]);

impl<'b> Reader<'b> {
    fn take(&mut self, n: usize) -> Option<&'b [u8]> {
        let (head, tail) = self.0.split_at_checked(n)?;
        self.0 = tail;
        Some(head)
    }

    fn u32(&mut self) -> Option<u32> {
        Some(u32::from_le_bytes(self.take(4)?.try_into().ok()?))
    }

    fn u64(&mut self) -> Option<u64> {
        Some(u64::from_le_bytes(self.take(8)?.try_into().ok()?))
    }

    fn text(&mut self) -> Option<&'b str> {
        let n = usize::try_from(self.u32()?).ok()?;
        std::str::from_utf8(self.take(n)?).ok()
    }

    /// Key, time and payload, where nothing but the checksum may follow. The revision is for people: it is never
    /// presented, because what an older version of this library kept may be less than what the server would send now.
    fn rest(&mut self) -> Option<([&'b str; 3], u64, &'b [u8])> {
        let found = [self.text()?, self.text()?, self.text()?];
        let _revision = self.text()?;
        let written = self.u64()?;
        let n = usize::try_from(self.u64()?).ok()?;
        let payload = self.take(n)?;
        (self.0.len() == 8).then_some((found, written, payload))
    }
}

/// FNV-1a: any change of one byte changes it, which is what a checksum is for. Against forgery it does nothing.
fn fnv(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xCBF2_9CE4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01B3))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::key::{ResourceKind, ServiceKey};
    use proptest::prelude::*;

    fn key(namespace: &str, service: &str) -> ServiceEventKey {
        ServiceKey::new(namespace, service).of(ResourceKind::Instances)
    }

    #[test]
    fn every_flipped_bit_and_every_cut_is_noticed() {
        let key = key("default", "a");
        let whole = pack(&key, "r1", 7, b"payload");
        assert_eq!(unpack(&key, &whole), Ok((7, &b"payload"[..])));
        for bit in 0..whole.len() * 8 {
            let mut flipped = whole.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(unpack(&key, &flipped).is_err(), "bit {bit}");
        }
        for length in 0..whole.len() {
            assert!(unpack(&key, &whole[..length]).is_err(), "length {length}");
        }
        assert!(unpack(&key, &[&whole[..], b"x"].concat()).is_err(), "trailing garbage");
    }

    #[test]
    fn a_future_schema_another_key_and_another_format_are_told_apart() {
        let mut future = pack(&key("default", "a"), "", 0, b"");
        future[8] = 2;
        assert_eq!(unpack(&key("default", "a"), &future), Err(BadFile::Schema(2)));
        let other = pack(&key("default", "b"), "", 0, b"");
        assert_eq!(unpack(&key("default", "a"), &other), Err(BadFile::OtherKey("instances of default/b".into())));
        assert_eq!(unpack(&key("default", "a"), b"{\"json\": true}"), Err(BadFile::Foreign));
        assert_eq!(unpack(&key("default", "a"), b""), Err(BadFile::Foreign));
    }

    #[test]
    fn names_of_keys_become_names_of_files_inside_the_directory() {
        assert_eq!(file_name(&key("default", "com.foo.Bar")), "default@com.foo.Bar@instances.polaris");
        assert_eq!(file_name(&key("..", "../../etc/passwd")), "%2E.@%2E.%2F..%2Fetc%2Fpasswd@instances.polaris");
        assert_ne!(file_name(&key("a@b", "c")), file_name(&key("a", "b@c")));
    }

    proptest! {
        #[test]
        fn no_key_leads_out_of_the_directory_and_no_two_share_a_file(
            a in (".{0,70}", ".{0,140}"), b in (".{0,70}", ".{0,140}"),
        ) {
            let names = [&a, &b].map(|(namespace, service)| file_name(&key(namespace, service)));
            for name in &names {
                let mut parts = Path::new(name).components();
                prop_assert!(matches!(parts.next(), Some(std::path::Component::Normal(_))) && parts.next().is_none());
                prop_assert!(name.len() < 220 && name.is_ascii() && !name.starts_with('.'));
            }
            prop_assert_eq!(names[0] == names[1], a == b);
        }

        #[test]
        fn any_bytes_are_read_without_harm(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let mut bytes = bytes;
            let _ = unpack(&key("default", "a"), &bytes);
            bytes.splice(0..0, MAGIC.iter().copied().chain(SCHEMA.to_le_bytes()));
            let sum = fnv(&bytes);
            bytes.extend(sum.to_le_bytes());
            let _ = unpack(&key("default", "a"), &bytes);
        }
    }
}
