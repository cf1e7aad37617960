//! Follows the host's way out: a cable is plugged in, a tunnel comes up.

use std::{
    os::fd::OwnedFd,
    sync::{Arc, Weak},
};

use omnirun_sys::host::ready::Readable;

use super::Host;
use crate::{NetError, netlink, networks::blocking};

/// Switches forwarding on wherever routes to anywhere lead from now on, until `host` is dropped. A failure is told and
/// left until the next change.
pub(crate) async fn watch(news: OwnedFd, host: Weak<Host>) -> Result<(), NetError> {
    let step = || NetError::step("listening for changed routes");
    let news = Readable::new(Arc::new(news)).map_err(step())?;
    loop {
        let concerns = news.read(|socket| netlink::news(socket)).await.map_err(step())?;
        let Some(host) = host.upgrade() else { return Ok(()) };
        if concerns && let Err(error) = blocking(move || host.refresh()).await {
            tracing::warn!(
                error = &error as &dyn std::error::Error,
                "the host's way out has changed, and is not used"
            );
        }
    }
}
