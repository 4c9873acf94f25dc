//! Layers for tower: what limits the calls that a server serves.
//!
//! A request is asked for by the rules before the service inside sees it, and is what it was when it goes on. What is
//! decided at once, which is almost everything, costs a check and no allocation; only a request that has to wait, for its
//! turn or for the rules, is boxed and takes the service that was ready for it along. The right to be served travels from
//! the [`future`] into the [`body`] of the answer, and ends with whichever of them ends: there is no way to lose it.
//!
//! ```text
//!   request ──► service ── limits.ask ──► granted ──► inner.call ──► future ──► body ──► permit dropped
//!                              │  ▲
//!                              │  └── labels (of the user's, then of the request)
//!                              ├──► queued ──► future waits ──► inner.call ──► …
//!                              └──► refused ──► refusal: 429, 503, or a gRPC status
//! ```

pub(crate) mod body;
pub(crate) mod future;
pub(crate) mod labels;
pub(crate) mod layer;
mod limits;
mod refusal;
pub(crate) mod service;
