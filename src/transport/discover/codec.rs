//! How questions and answers travel on the stream.
//!
//! tonic reads into one buffer that grows to the largest message and is kept for as long as the stream lives, which may
//! be days. But a buffer that somebody refers to when it is full is left to them, and a new one begun. So a large answer is
//! held until answers come out of another buffer than its own; what was left over in its own is small.

use hyper::body::{Buf as _, Bytes};
use tonic::Status;
use tonic::codec::{Codec, DecodeBuf, Decoder};
use tonic_prost::ProstEncoder;

use crate::pb::v1;
use crate::wire::discovered::DiscoverAnswer;

/// Below it a buffer may stay.
const LARGE: usize = 64 << 10;
/// What stands before each message on the stream.
const PREFIX: usize = 5;

/// Reads answers as far as the worker needs them; the generated client would decode every instance.
#[derive(Debug, Default)]
pub(super) struct AnswerCodec;

/// Decodes answers, and holds on to a large one.
#[derive(Debug, Default)]
pub(super) struct AnswerDecoder {
    large: Option<Bytes>,
    /// Where the last message ended, as an address: the next one in the same buffer follows it.
    end: usize,
}

impl Codec for AnswerCodec {
    type Encode = v1::DiscoverRequest;
    type Decode = DiscoverAnswer;
    type Encoder = ProstEncoder<v1::DiscoverRequest>;
    type Decoder = AnswerDecoder;

    fn encoder(&mut self) -> Self::Encoder {
        ProstEncoder::default()
    }

    fn decoder(&mut self) -> Self::Decoder {
        AnswerDecoder::default()
    }
}

impl Decoder for AnswerDecoder {
    type Item = DiscoverAnswer;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<DiscoverAnswer>, Status> {
        let message = buffer.copy_to_bytes(buffer.remaining());
        let begin = message.as_ptr().addr();
        if message.len() >= LARGE {
            self.large = Some(message.clone());
        } else if begin != self.end + PREFIX {
            self.large = None;
        }
        self.end = begin + message.len();
        DiscoverAnswer::read(message).map(Some).map_err(|error| Status::internal(error.to_string()))
    }
}
