//! Takes a registered instance away, so that everybody sees that it is gone.
//!
//! Servers with a bolt store (the stock standalone ones; seen on 1.17.9, 1.18.1 and main) acknowledge a deregistration
//! and keep showing the instance for ever when the instance itself was last written more than five seconds before the
//! newest write of any other. So each try to remove it follows right after a write that isolates it once more.

use std::time::Duration;

use tokio::time::Instant;

use crate::engine::world::World;
use crate::error::Result;
use crate::model::request::registration::{Registrant, Target};
use crate::util::backoff::Backoff;

/// How often a removal is tried before the instance is left to expire.
const TRIES: u32 = 4;
const MAX_PAUSE: Duration = Duration::from_secs(5);

/// How old the last write of an instance may be for its removal to be seen, with a margin for a slow store.
const FRESH: Duration = Duration::from_secs(2);

/// Removes `target`. `written` is its registration as it was last written, and when.
pub(crate) async fn remove(world: &World, target: &Target, written: Option<(&Registrant, Instant)>) -> Result<()> {
    let mut backoff = Backoff::new(world.retry_interval, MAX_PAUSE);
    let mut last_write = written.map(|(_, at)| at);
    let mut tries = 1;
    loop {
        // One turn for both, so that nothing comes between them.
        let turn = world.turns.0.acquire().await;
        if let (Some((registrant, _)), Some(at)) = (written, last_write)
            && at.elapsed() > FRESH
        {
            match world.isolate(registrant).await {
                Ok(()) => last_write = Some(Instant::now()),
                Err(error) => tracing::debug!(service = %target.key, %error, "a removal may stay unseen for a while"),
            }
        }
        let result = world.transport.deregister(target, world.long_patience).await;
        drop(turn);
        match result {
            Ok(()) => {
                world.isolated.forget(target);
                return Ok(());
            }
            Err(error) if error.is_retryable() && tries < TRIES => tries += 1,
            Err(error) => return Err(error),
        }
        let pause = backoff.next_delay(&mut rand::rng());
        tokio::time::sleep(pause).await;
    }
}
