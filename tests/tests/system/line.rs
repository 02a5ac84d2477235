//! A site whose line is slow, or long: what it sends arrives, once, and does not wait for each answer.

use std::time::{Duration, Instant};

use pipeline::{
    artifacts,
    connection::Connection,
    metrics::Metrics,
    server::{Server, ServerSettings},
    streams::{self, StreamSettings},
};
use tests::{federation::PATIENCE, process, proxy::Proxy};

/// A chunk takes a second, and all of them together longer than the server's answer may.
const BYTES: usize = 10 << 20;

/// A server, and a connection to it by a line.
struct Stage {
    near: Connection,
    far: Connection,
    line: Proxy,
    // What stands as long as the stage.
    _server: Server,
    _folder: tempfile::TempDir,
}

impl Stage {
    async fn set() -> anyhow::Result<Self> {
        let folder = tempfile::tempdir()?;
        let settings = ServerSettings {
            program: process::nats_server(),
            ..ServerSettings::new(folder.path().join("nats"))
        };
        let server = tokio::task::spawn_blocking(move || Server::start(&settings)).await??;
        let mut access = server.access();
        let near = Connection::open(&access, "near", PATIENCE, &Metrics::new()).await?;
        streams::set_up(&near, &StreamSettings::default()).await?;
        let line = Proxy::start(&access.url).await?;
        access.url = line.url();
        let far = Connection::open(&access, "far", PATIENCE, &Metrics::new()).await?;
        Ok(Self {
            near,
            far,
            line,
            _server: server,
            _folder: folder,
        })
    }
}

#[test]
fn an_upload_over_a_slow_line_is_sent_once() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let Stage { near, far, line, .. } = &Stage::set().await.unwrap();
        line.narrow(1 << 20);
        let bytes: Vec<u8> = (0..BYTES).map(|place| (place >> 8) as u8).collect();
        let upload = artifacts::upload_bytes(far, "site", "job", bytes.clone().into());
        let artifact = tokio::time::timeout(PATIENCE, upload)
            .await
            .expect("the upload never ends")
            .unwrap();
        // Nothing is sent twice, but for a chunk that was late by a hair.
        let sent = line.sent();
        assert!(
            sent < (BYTES + BYTES / 5) as u64,
            "{sent} bytes were sent for {BYTES}"
        );
        assert_eq!(artifacts::download_bytes(near, &artifact).await.unwrap(), bytes);
    });
}

/// A model each way over a line that delays everything by 20 ms.
async fn over_a_long_line(bytes: usize) -> anyhow::Result<[f64; 2]> {
    let stage = Stage::set().await?;
    stage.line.delay(Duration::from_millis(20));
    let far = &stage.far;
    let begun = Instant::now();
    let artifact = artifacts::upload_bytes(far, "site", "job", vec![7; bytes].into()).await?;
    let up = begun.elapsed().as_secs_f64();
    let begun = Instant::now();
    artifacts::download_bytes(far, &artifact).await?;
    Ok([up, begun.elapsed().as_secs_f64()].map(|seconds| bytes as f64 / 1e6 / seconds))
}

#[test]
#[ignore = "a measurement: just overhead"]
fn overhead_of_a_long_line() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let [up, down] = runtime.block_on(over_a_long_line(120_000_000)).unwrap();
    println!("\n120 MB over a line of 20 ms each way: {up:.0} MB/s up, {down:.0} MB/s down");
}
