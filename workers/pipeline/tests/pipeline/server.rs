//! A private server for a test, and a connection to it.

use std::{path::PathBuf, time::Duration};

use pipeline::{
    Error,
    connection::{Access, Connection},
    metrics::Metrics,
    server::{Address, Server, ServerSettings},
    streams::{self, StreamSettings},
};
use tempfile::TempDir;

/// Long enough for any machine; no test waits it out.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// A server with its streams set up, on a folder of its own.
pub struct Private {
    pub server: Server,
    pub connection: Connection,
    pub folder: TempDir,
}

/// `.tools/bin/nats-server` of the repository, else the one on the PATH.
pub fn program() -> PathBuf {
    let own = PathBuf::from(concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../../.tools/bin/nats-server"
    ));
    if own.is_file() { own } else { "nats-server".into() }
}

pub async fn private() -> Private {
    let folder = tempfile::tempdir().unwrap();
    let settings = ServerSettings {
        program: program(),
        ..ServerSettings::new(folder.path().join("nats"))
    };
    let server = tokio::task::spawn_blocking(move || Server::start(&settings).unwrap())
        .await
        .unwrap();
    let connection = connect(&server.access()).await;
    streams::set_up(&connection, &StreamSettings::default())
        .await
        .unwrap();
    Private {
        server,
        connection,
        folder,
    }
}

pub async fn connect(access: &Access) -> Connection {
    Connection::open(access, "test", PATIENCE, &Metrics::new())
        .await
        .unwrap()
}

/// Kills the server as a crash would, and waits until another process has taken its place.
pub async fn crash(server: &Server) {
    let killed = server.process_id();
    // SAFETY: a signal to our own child.
    unsafe { libc::kill(killed as libc::pid_t, libc::SIGKILL) };
    until("the server is started again", async || {
        server.process_id() != killed
    })
    .await;
}

/// Waits for a condition, and says which one did not come.
pub async fn until(what: &str, mut condition: impl AsyncFnMut() -> bool) {
    let waiting = async {
        while !condition().await {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(PATIENCE, waiting)
        .await
        .unwrap_or_else(|_| panic!("waited in vain: {what}"));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_token_is_wanted_and_the_address_is_found() {
    let private = private().await;
    let store = private.folder.path().join("nats");
    assert_eq!(Address::read(&store).unwrap(), *private.server.address());
    let stranger = Access::local(&private.server.address().url, None);
    let refused = Connection::open(&stranger, "test", Duration::ZERO, &Metrics::new()).await;
    assert!(matches!(refused, Err(Error::Connect { .. })));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_that_is_no_server_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    for (program, words) in [("/bin/false", "ended at once"), ("/no/such/program", "not found")] {
        let settings = ServerSettings {
            program: program.into(),
            ..ServerSettings::new(folder.path())
        };
        let error = Server::start(&settings).unwrap_err().to_string();
        assert!(error.contains(program) && error.contains(words), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_on_the_same_store_has_its_last_address() {
    let folder = tempfile::tempdir().unwrap();
    let settings = ServerSettings {
        program: program(),
        ..ServerSettings::new(folder.path())
    };
    let start = || Server::start(&settings).unwrap();
    let first = start();
    let address = first.address().clone();
    drop(first);
    let again = start();
    assert_eq!(*again.address(), address);
    // The port is taken: the next server finds another.
    std::fs::create_dir(folder.path().join("other")).unwrap();
    let name = "address.json";
    std::fs::copy(folder.path().join(name), folder.path().join("other").join(name)).unwrap();
    let other = Server::start(&ServerSettings {
        store: folder.path().join("other"),
        ..settings.clone()
    });
    assert_ne!(other.unwrap().address().url, address.url);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_server_ends_with_its_owner() {
    let private = private().await;
    let process = private.server.process_id();
    drop(private);
    // SAFETY: signal 0 only asks whether the process is there.
    let there = unsafe { libc::kill(process as libc::pid_t, 0) } == 0;
    assert!(!there, "nats-server {process} is still there");
}
