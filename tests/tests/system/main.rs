//! The whole system: real processes, a real nats-server.
