//! Tools that know nothing of Polaris: tasks, back-off, time, deadlines, hashing, hosts, files, connections.

pub(crate) mod alone;
pub(crate) mod backoff;
pub(crate) mod clock;
pub(crate) mod connect;
pub(crate) mod deadline;
pub(crate) mod draw;
pub(crate) mod fs;
pub(crate) mod hash;
pub(crate) mod host;
pub(crate) mod murmur3;
pub(crate) mod panic;
pub(crate) mod runtime;
pub(crate) mod task;
pub(crate) mod text;
