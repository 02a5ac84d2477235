//! Whether anything answers at the server's address.

use std::{
    net::{TcpStream, ToSocketAddrs},
    time::Instant,
};

use pipeline::connection::{host_of, is_loopback};

use super::{Findings, PATIENCE};

/// Whether the server's address takes a connection.
pub fn reach(urls: &str, findings: &mut Findings) -> bool {
    let mut reached = false;
    for url in urls.split(',').map(str::trim) {
        let (host, port) = (host_of(url), port_of(url));
        let proxied = ["https_proxy", "HTTPS_PROXY"]
            .iter()
            .any(|name| std::env::var_os(name).is_some());
        if proxied && !is_loopback(host) {
            findings.odd(
                "proxy",
                "HTTPS_PROXY is set; rounds itself connects directly",
                "where only the proxy leads out, run a leaf node here and name it in nats.url",
            );
        }
        let addresses = match (host, port).to_socket_addrs() {
            Ok(addresses) => addresses,
            Err(error) => {
                findings.broken(
                    "name",
                    format!("{host}: {error}"),
                    "ask IT whether this machine may resolve the hub's name",
                );
                continue;
            }
        };
        let begun = Instant::now();
        let mut failed = None;
        let connected =
            addresses
                .into_iter()
                .any(|address| match TcpStream::connect_timeout(&address, PATIENCE) {
                    Ok(_) => true,
                    Err(error) => {
                        failed = Some(error);
                        false
                    }
                });
        if connected {
            findings.fine(
                "network",
                format!("{host}:{port} in {} ms", begun.elapsed().as_millis()),
            );
            reached = true;
        } else {
            let error = failed.map_or("no address".to_owned(), |error| error.to_string());
            findings.broken(
                "network",
                format!("{host}:{port}: {error}"),
                "refused: is the server (or this site's leaf node) running? timed out: a firewall; ask IT for outbound access",
            );
        }
    }
    reached
}

fn port_of(url: &str) -> u16 {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let rest = rest.split('/').next().unwrap_or(rest);
    let port = rest.rsplit_once(':').and_then(|(_, port)| port.parse().ok());
    port.unwrap_or(if url.starts_with("wss://") { 443 } else { 4222 })
}

#[cfg(test)]
mod tests {
    use super::port_of;

    #[test]
    fn ports_are_found() {
        for (url, port) in [
            ("nats://hub.example.org", 4222),
            ("tls://hub.example.org:4443", 4443),
            ("wss://hub.example.org", 443),
            ("wss://hub.example.org:8443/nats", 8443),
            ("nats://[::1]:4333", 4333),
        ] {
            assert_eq!(port_of(url), port, "{url}");
        }
    }
}
