//! A bad line: a TCP proxy that delays, narrows, cuts and halves connections.

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
    /// Bytes that go to the server in a second; 0: all that come.
    width: AtomicU64,
    /// Bytes that went to the server.
    sent: AtomicU64,
    /// The number of the next cut: a connection ends when it changes.
    cuts: watch::Sender<u64>,
    /// A connection of an earlier number has lost what goes to the server.
    halved: AtomicUsize,
    connections: AtomicUsize,
}

impl Proxy {
    /// Listens on a free port of this machine, in front of the server at `url` (`nats://host:port`).
    pub async fn start(url: &str) -> io::Result<Self> {
        let server = url.trim_start_matches("nats://").to_owned();
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let line = Arc::new(Line {
            delay_microseconds: AtomicU64::new(0),
            width: AtomicU64::new(0),
            sent: AtomicU64::new(0),
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

    /// What clients say goes on at so many bytes a second from now on, one after the other; the rest waits on the line.
    pub fn narrow(&self, bytes_per_second: u64) {
        self.line.width.store(bytes_per_second, Ordering::Relaxed);
    }

    /// Bytes that clients have sent.
    pub fn sent(&self) -> u64 {
        self.line.sent.load(Ordering::Relaxed)
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
    let width = |read: usize| {
        line.sent.fetch_add(read as u64, Ordering::Relaxed);
        line.width.load(Ordering::Relaxed)
    };
    let up = carry(from_client, to_server, &line, width, || {
        if number <= line.halved.load(Ordering::Relaxed) {
            lost.store(true, Ordering::Relaxed);
        }
        lost.load(Ordering::Relaxed)
    });
    let down = carry(from_server, to_client, &line, |_| 0, || false);
    tokio::select! {
        _ = up => {}
        _ = down => {}
        _ = cuts.changed() => {}
    }
}

/// Carries bytes in one direction until an end hangs up. `width` is told of bytes that come, and says how many go on in a
/// second, 0 for all. `lost`: they go nowhere.
async fn carry(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    line: &Line,
    width: impl Fn(usize) -> u64,
    lost: impl Fn() -> bool,
) -> io::Result<()> {
    let (sender, mut receiver) = mpsc::channel::<(Instant, Vec<u8>)>(ON_THE_WAY);
    let reading = async move {
        let mut buffer = vec![0; 64 << 10];
        let mut free = Instant::now();
        loop {
            let read = from.read(&mut buffer).await?;
            if read == 0 {
                return io::Result::Ok(());
            }
            let delay = Duration::from_micros(line.delay_microseconds.load(Ordering::Relaxed));
            let takes = match width(read) {
                0 => Duration::ZERO,
                width => Duration::from_secs_f64(read as f64 / width as f64),
            };
            free = free.max(Instant::now()) + takes;
            if sender
                .send((free + delay, buffer[..read].to_vec()))
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
