//! The fields of a message, one by one, from its bytes.

/// Bytes that are no message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Malformed {
    /// A length or a number reaches beyond the end.
    #[error("a field is cut off")]
    Cut,
    /// A key with tag 0, or of a wire type that proto3 does not have.
    #[error("a field has an impossible key")]
    Key,
    /// Text that is not UTF-8.
    #[error("a text is not UTF-8")]
    Text,
    /// More than a hundred messages inside each other.
    #[error("messages are nested too deep")]
    Depth,
}

/// What stands under a tag, by wire type.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Raw<'a> {
    Varint(u64),
    Fixed32(u32),
    Fixed64,
    Bytes(&'a [u8]),
}

/// Reads field after field.
pub(super) struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    /// The next field and its tag; `None` at the end.
    pub(super) fn field(&mut self) -> Result<Option<(u32, Raw<'a>)>, Malformed> {
        if self.rest.is_empty() {
            return Ok(None);
        }
        let key = self.varint()?;
        let tag = u32::try_from(key >> 3).ok().filter(|tag| *tag > 0).ok_or(Malformed::Key)?;
        let raw = match key & 7 {
            0 => Raw::Varint(self.varint()?),
            1 => {
                self.take(8)?;
                Raw::Fixed64
            }
            2 => {
                let length = usize::try_from(self.varint()?).map_err(|_| Malformed::Cut)?;
                Raw::Bytes(self.take(length)?)
            }
            5 => {
                let bytes = self.take(4)?.first_chunk().ok_or(Malformed::Cut)?;
                Raw::Fixed32(u32::from_le_bytes(*bytes))
            }
            _ => return Err(Malformed::Key),
        };
        Ok(Some((tag, raw)))
    }

    fn varint(&mut self) -> Result<u64, Malformed> {
        let mut value = 0_u64;
        for shift in (0..64).step_by(7) {
            let (byte, rest) = self.rest.split_first().ok_or(Malformed::Cut)?;
            self.rest = rest;
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(Malformed::Key)
    }

    fn take(&mut self, length: usize) -> Result<&'a [u8], Malformed> {
        let (taken, rest) = self.rest.split_at_checked(length).ok_or(Malformed::Cut)?;
        self.rest = rest;
        Ok(taken)
    }
}

pub(super) fn text_of(bytes: &[u8]) -> Result<&str, Malformed> {
    std::str::from_utf8(bytes).map_err(|_| Malformed::Text)
}

/// Numbers of 32 bits are sent in up to 64, and the upper half means nothing.
#[allow(clippy::cast_possible_truncation, reason = "that is the point")]
pub(super) fn low_u32(value: u64) -> u32 {
    value as u32
}

pub(super) fn low_i32(value: u64) -> i32 {
    low_u32(value).cast_signed()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_come_one_by_one() {
        let mut reader =
            Reader::new(&[0x08, 0xac, 0x02, 0x12, 0x01, b'x', 0x1d, 1, 0, 0, 0, 0x21, 0, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(reader.field(), Ok(Some((1, Raw::Varint(300)))));
        assert_eq!(reader.field(), Ok(Some((2, Raw::Bytes(b"x")))));
        assert_eq!(reader.field(), Ok(Some((3, Raw::Fixed32(1)))));
        assert_eq!(reader.field(), Ok(Some((4, Raw::Fixed64))));
        assert_eq!(reader.field(), Ok(None));
    }

    #[test]
    fn broken_bytes_are_named() {
        assert_eq!(Reader::new(&[0x08]).field(), Err(Malformed::Cut));
        assert_eq!(Reader::new(&[0x12, 0x05, 1]).field(), Err(Malformed::Cut));
        assert_eq!(Reader::new(&[0x0b]).field(), Err(Malformed::Key));
        assert_eq!(Reader::new(&[0x00]).field(), Err(Malformed::Key));
        assert_eq!(Reader::new(&[0xff; 11]).field(), Err(Malformed::Key));
    }
}
