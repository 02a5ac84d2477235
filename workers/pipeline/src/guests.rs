//! What an orchestrator does for members with accounts of their own, who may make no queue and read no stream.

use std::collections::BTreeSet;

use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::{
    connection::Connection,
    known,
    signing::RosterFile,
    streams::{self, LOOK, Pace},
};

/// Makes the queues of all sites in the roster, now and whenever there is a new one, and answers which jobs of theirs
/// have ended, until `stop`.
pub async fn serve(connection: &Connection, roster: Option<&RosterFile>, stop: CancellationToken) {
    let making = async {
        if let Some(roster) = roster {
            make_queues(connection, roster).await;
        }
    };
    tokio::select! {
        () = stop.cancelled() => {}
        ((), ()) = async { tokio::join!(making, known::answer(connection)) } => {}
    }
}

async fn make_queues(connection: &Connection, roster: &RosterFile) {
    let mut made = BTreeSet::new();
    loop {
        for site in roster.roster().sites.keys() {
            if made.contains(site) {
                continue;
            }
            match streams::set_up_site(connection, site, Pace::default()).await {
                Ok(()) => drop(made.insert(site.clone())),
                Err(error) => tracing::warn!("site {site}: {error}; trying again"),
            }
        }
        sleep(LOOK).await;
    }
}
