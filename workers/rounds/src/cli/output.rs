//! What the program says, and to whom.

use std::io::{self, IsTerminal, Stderr, Write};

use tracing_subscriber::{EnvFilter, fmt};

/// Sends logs to standard error, as JSON where `json`; `RUST_LOG` filters them, and `level` where it is not set.
pub fn init_logs(json: bool, level: &str) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(level));
    let logs = fmt()
        .with_env_filter(filter)
        .with_ansi(io::stderr().is_terminal())
        .with_writer(|| Unheard(io::stderr()))
        .with_target(false);
    if json {
        logs.json().init();
    } else {
        logs.init();
    }
}

/// Standard error, whether or not somebody reads it. Where the reader of a pipe has died, as a collector of logs may, a
/// failed line would be the end of whoever wrote it: of the task that waits for SIGTERM, of the connection's.
struct Unheard(Stderr);

impl Write for Unheard {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let _ = self.0.write_all(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        let _ = self.0.flush();
        Ok(())
    }
}

/// Says why a command failed.
pub fn fail(error: &anyhow::Error) {
    let _ = writeln!(Unheard(io::stderr()), "error: {error:#}");
}

/// A command ends without a word where nobody reads what it prints any more, as behind `| head`.
pub fn end_quietly_without_readers() {
    let others = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        let closed = panic
            .payload_as_str()
            .is_some_and(|message| message.starts_with("failed printing to std"));
        if !closed {
            others(panic);
        }
    }));
}
