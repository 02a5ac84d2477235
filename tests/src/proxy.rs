//! A bad line: a TCP proxy that delays, cuts and halves connections.

use std::{
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::{mpsc, watch},
    time::{Instant, sleep_until},
};

/// Pieces on their way in one direction.
const ON_THE_WAY: usize = 4_096;

/// A proxy in front of one server. It ends when it is dropped.
pub struct Proxy {
    address: SocketAddr,
    line: Arc<Line>,
    accepting: tokio::task::JoinHandle<()>,
}

/// What the connections are told.
struct Line {
    delay_microseconds: AtomicU64,
    /// The number of the next cut: a connection ends when it changes.
    cuts: watch::Sender<u64>,
    /// A connection of an earlier number has lost what goes to the server.
    halved: AtomicUsize,
    connections: AtomicUsize,
}

impl Proxy {
    /// Listens on a free port of this machine, in front of `server` (`host:port`).
    pub async fn start(server: String) -> io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let line = Arc::new(Line {
            delay_microseconds: AtomicU64::new(0),
            cuts: watch::Sender::new(0),
            halved: AtomicUsize::new(0),
            connections: AtomicUsize::new(0),
        });
        let own = Arc::clone(&line);
        let accepting = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let number = own.connections.fetch_add(1, Ordering::Relaxed) + 1;
                tokio::spawn(connect(client, server.clone(), Arc::clone(&own), number));
            }
        });
        Ok(Self {
            address,
            line,
            accepting,
        })
    }

    /// Where clients connect, as a NATS URL.
    pub fn url(&self) -> String {
        format!("nats://{}", self.address)
    }

    /// Everything takes so long in each direction from now on. What is on its way does not wait for one another.
    pub fn delay(&self, delay: Duration) {
        let microseconds = u64::try_from(delay.as_micros()).unwrap_or(u64::MAX);
        self.line
            .delay_microseconds
            .store(microseconds, Ordering::Relaxed);
    }

    /// Ends all connections at once, wherever in a message they are.
    pub fn cut(&self) {
        self.line.cuts.send_modify(|cuts| *cuts += 1);
    }

    /// Half of every connection is gone: nobody hears what the clients say, and nobody tells them.
    pub fn halve(&self) {
        let connections = self.line.connections.load(Ordering::Relaxed);
        self.line.halved.store(connections, Ordering::Relaxed);
    }

    /// How many connections there were.
    pub fn connections(&self) -> usize {
        self.line.connections.load(Ordering::Relaxed)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accepting.abort();
        self.cut();
    }
}

async fn connect(client: TcpStream, server: String, line: Arc<Line>, number: usize) {
    let mut cuts = line.cuts.subscribe();
    let Ok(server) = TcpStream::connect(&server).await else {
        return;
    };
    // A delay is the line's, not the system's.
    let _ = (client.set_nodelay(true), server.set_nodelay(true));
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    let lost = AtomicBool::new(false);
    let up = carry(from_client, to_server, &line, || {
        if number <= line.halved.load(Ordering::Relaxed) {
            lost.store(true, Ordering::Relaxed);
        }
        lost.load(Ordering::Relaxed)
    });
    let down = carry(from_server, to_client, &line, || false);
    tokio::select! {
        _ = up => {}
        _ = down => {}
        _ = cuts.changed() => {}
    }
}

/// Carries bytes in one direction until an end hangs up. `lost`: they go nowhere.
async fn carry(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    line: &Line,
    lost: impl Fn() -> bool,
) -> io::Result<()> {
    let (sender, mut receiver) = mpsc::channel::<(Instant, Vec<u8>)>(ON_THE_WAY);
    let reading = async move {
        let mut buffer = vec![0; 64 << 10];
        loop {
            let read = from.read(&mut buffer).await?;
            if read == 0 {
                return io::Result::Ok(());
            }
            let delay = Duration::from_micros(line.delay_microseconds.load(Ordering::Relaxed));
            if sender
                .send((Instant::now() + delay, buffer[..read].to_vec()))
                .await
                .is_err()
            {
                return Ok(());
            }
        }
    };
    let writing = async move {
        while let Some((due, bytes)) = receiver.recv().await {
            sleep_until(due).await;
            if !lost() {
                to.write_all(&bytes).await?;
            }
        }
        to.shutdown().await
    };
    tokio::try_join!(reading, writing).map(drop)
}
