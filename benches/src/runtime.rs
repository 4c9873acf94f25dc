//! Runtimes as clients have them.

use tokio::runtime::{Builder, Runtime};

/// One worker beside the calling thread, as a small service has it.
pub fn runtime() -> Runtime {
    Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime")
}

/// Everything on the calling thread, so that its CPU time is all there is.
pub fn on_this_thread() -> Runtime {
    Builder::new_current_thread().enable_all().build().expect("a runtime")
}
