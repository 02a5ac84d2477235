//! The pipeline against a model of JetStream, and against a real nats-server.

mod archive;
mod artifacts;
mod canned;
mod continued;
mod elastic;
mod frozen;
mod histories;
mod hostile;
mod jobs;
mod limited_time;
mod masked;
mod model;
mod robust;
mod server;
mod signed;
mod streams;
mod transitions;
mod trouble;
