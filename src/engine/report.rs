//! Tells the control plane who this client is, and learns from the answer where it runs.
//!
//! A report carries an id of this context, so that the control plane can list its clients; it forgets one that has not
//! reported for six minutes. The first report goes out when the context is first used, not when it is built.

use std::net::IpAddr;
use std::time::Duration;

use rand::RngExt;

use crate::engine::contact::Contact;
use crate::engine::location::LocationCell;
use crate::error::{ErrorKind, Result};
use crate::model::request::registration::ClientReport;
use crate::transport::Transport;
use crate::util::backoff::Backoff;

/// An id for this context, unlike that of any other: 32 hexadecimal digits of entropy.
pub(crate) fn client_id() -> String {
    format!("{:032x}", rand::rng().random::<u128>())
}

/// What a report is made with.
#[derive(Debug, Clone)]
pub(crate) struct Reporter {
    pub(crate) transport: Transport,
    pub(crate) location: LocationCell,
    pub(crate) contact: Contact,
    pub(crate) id: String,
    pub(crate) bind_ip: Option<IpAddr>,
    pub(crate) interval: Duration,
    /// How long one report may take, retries included.
    pub(crate) patience: Duration,
}

/// Reports every `interval`, sooner after a failure. Ends with its scope.
pub(crate) async fn report(reporter: Reporter) {
    let Reporter { contact, interval, .. } = &reporter;
    let mut backoff = Backoff::new(Duration::from_secs(1), *interval);
    let mut failing = false;
    loop {
        let delay = match report_once(&reporter).await {
            Ok(()) => {
                contact.reached();
                if std::mem::take(&mut failing) {
                    tracing::info!("client reports are accepted again");
                }
                backoff.reset();
                // Up to a tenth early, so that clients which started together do not report together.
                interval.mul_f64(1.0 - rand::rng().random::<f64>() / 10.0)
            }
            Err(error) if error.kind() == ErrorKind::Closed => return,
            Err(error) => {
                contact.failed(&error);
                if !std::mem::replace(&mut failing, true) {
                    tracing::warn!(%error, "the client could not be reported to the control plane");
                }
                backoff.next_delay(&mut rand::rng())
            }
        };
        tokio::time::sleep(delay).await;
    }
}

async fn report_once(reporter: &Reporter) -> Result<()> {
    let Reporter { transport, location, patience, .. } = reporter;
    let host = match reporter.bind_ip {
        Some(ip) => ip,
        None => transport.local_address(*patience).await?,
    };
    let report =
        ClientReport { id: reporter.id.clone(), host: host.to_string(), location: location.configured().clone() };
    if let Some(told) = transport.report_client(&report, *patience).await? {
        location.learn(told);
    }
    Ok(())
}
