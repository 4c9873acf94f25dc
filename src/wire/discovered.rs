//! An answer of the Discover stream whose instances are still bytes.
//!
//! Problem: decoded by the generated code, an instance takes two dozen allocations and 1.6 kB, to be thrown away as
//! soon as the snapshot is built; for a large service that is most of the time and all of the memory of an update.
//! Choice: the rest of the answer is decoded as ever, and instances stay slices of the received buffer until
//! [`crate::wire::walk`] reads them in place. It is a message like any other, so the codec takes it.

use prost::bytes::{Buf, BufMut, Bytes};
use prost::encoding::{self, DecodeContext, WireType};
use prost::{DecodeError, Message};

use crate::pb::v1;

/// The tag of `DiscoverResponse.instances`.
const INSTANCES: u32 = 5;

/// What a server answered on the Discover stream.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct DiscoverAnswer {
    /// All but the instances.
    pub(crate) head: v1::DiscoverResponse,
    /// One message of `v1.Instance` each.
    pub(crate) instances: Vec<Bytes>,
}

impl DiscoverAnswer {
    /// The answer in these bytes; its instances refer to them.
    pub(crate) fn read(bytes: Bytes) -> Result<Self, DecodeError> {
        Self::decode(bytes)
    }
}

impl From<v1::DiscoverResponse> for DiscoverAnswer {
    fn from(mut response: v1::DiscoverResponse) -> Self {
        let instances = std::mem::take(&mut response.instances);
        Self { head: response, instances: instances.iter().map(|instance| instance.encode_to_vec().into()).collect() }
    }
}

impl Message for DiscoverAnswer {
    fn encode_raw(&self, buf: &mut impl BufMut) {
        self.head.encode_raw(buf);
        encoding::bytes::encode_repeated(INSTANCES, &self.instances, buf);
    }

    fn merge_field(
        &mut self,
        tag: u32,
        wire_type: WireType,
        buf: &mut impl Buf,
        ctx: DecodeContext,
    ) -> Result<(), DecodeError> {
        match tag {
            INSTANCES => encoding::bytes::merge_repeated(wire_type, &mut self.instances, buf, ctx),
            _ => self.head.merge_field(tag, wire_type, buf, ctx),
        }
    }

    fn encoded_len(&self) -> usize {
        self.head.encoded_len() + encoding::bytes::encoded_len_repeated(INSTANCES, &self.instances)
    }

    fn clear(&mut self) {
        self.head.clear();
        self.instances.clear();
    }
}
