//! Who is connected to a limiter: client ids, the keys they are given, and their streams.

use std::collections::{BTreeMap, VecDeque};

use super::check::{OTHER_CLIENT, TOO_MANY_CLIENTS};

/// How many clients a limiter takes unless it is told otherwise.
const MOST: u32 = 1000;

/// Clients by id, key and stream.
#[derive(Debug, Default)]
pub(super) struct Clients {
    attached: BTreeMap<String, Attached>,
    /// The client that a stream began with; it has no other until it ends.
    streams: BTreeMap<u64, Client>,
    /// Keys of clients that left, the first that is given again in front.
    free: VecDeque<u32>,
    last: u32,
}

/// A client as one stream knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Client {
    pub(super) id: String,
    pub(super) key: u32,
}

#[derive(Debug)]
struct Attached {
    key: u32,
    /// The one that joined last: pushes go there, and its end is the end of the client.
    stream: u64,
}

impl Clients {
    /// The client of this stream, which says it has this id; or the code that it is refused with.
    pub(super) fn join(&mut self, stream: u64, id: &str) -> Result<Client, u32> {
        if let Some(client) = self.streams.get(&stream) {
            return if client.id == id { Ok(client.clone()) } else { Err(OTHER_CLIENT) };
        }
        let key = if let Some(attached) = self.attached.get_mut(id) {
            attached.stream = stream;
            attached.key
        } else {
            let key = self.free_key()?;
            self.attached.insert(id.to_owned(), Attached { key, stream });
            key
        };
        let client = Client { id: id.to_owned(), key };
        self.streams.insert(stream, client.clone());
        Ok(client)
    }

    /// The stream has ended; the id of its client, if that is gone with it.
    pub(super) fn leave(&mut self, stream: u64) -> Option<String> {
        let client = self.streams.remove(&stream)?;
        self.attached.get(&client.id).filter(|attached| attached.stream == stream)?;
        self.attached.remove(&client.id);
        self.free.push_back(client.key);
        Some(client.id)
    }

    /// The client that the stream began with.
    pub(super) fn of_stream(&self, stream: u64) -> Option<&Client> {
        self.streams.get(&stream)
    }

    /// Where pushes to the client of this id go.
    pub(super) fn stream_of(&self, id: &str) -> Option<u64> {
        self.attached.get(id).map(|attached| attached.stream)
    }

    fn free_key(&mut self) -> Result<u32, u32> {
        if let Some(key) = self.free.pop_front() {
            return Ok(key);
        }
        if self.last == MOST {
            return Err(TOO_MANY_CLIENTS);
        }
        self.last += 1;
        Ok(self.last)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_counted_from_one_and_given_again() {
        let mut clients = Clients::default();
        let key = |clients: &mut Clients, stream, id: &str| clients.join(stream, id).map(|client| client.key);
        assert_eq!((key(&mut clients, 1, "a"), key(&mut clients, 2, "b")), (Ok(1), Ok(2)));
        assert_eq!(key(&mut clients, 1, "b"), Err(OTHER_CLIENT));
        assert_eq!(key(&mut clients, 3, "a"), Ok(1), "on another stream it is the same client");
        assert_eq!((clients.stream_of("a"), clients.leave(1), clients.stream_of("a")), (Some(3), None, Some(3)));
        assert_eq!((clients.leave(3), clients.stream_of("a"), clients.leave(3)), (Some("a".to_owned()), None, None));
        assert_eq!((key(&mut clients, 4, "c"), key(&mut clients, 5, "a")), (Ok(1), Ok(3)));
        let mut many = (0..1000).map(|stream| key(&mut clients, 100 + stream, &stream.to_string()));
        assert_eq!(many.position(|key| key.is_err()), Some(997));
        assert_eq!(key(&mut clients, 5000, "late"), Err(TOO_MANY_CLIENTS));
    }
}
