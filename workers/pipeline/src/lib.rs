//! Jobs, tasks, results and artifacts on NATS JetStream. Knows no tensor.
//!
//! - [`connection`], [`server`], reaching a NATS server, or running a private one.
//! - [`subjects`], [`streams`], every subject, stream and durable consumer; [`rights`], who may use which.
//! - [`publish`], create-only messages, which are the only locks.
//! - [`artifacts`], bytes by digest, in chunks.
//! - [`archive`], what outlives the server.
//! - [`conductor`], results in, next releases and tasks out.
//! - [`worker`], one phase of one site: task in, result out.
//! - [`exit`], the one way out of a site.
//! - [`client`], what a user does with jobs; [`known`], which jobs have ended;
//!   [`guests`], what a member with an account of its own cannot do for itself.
//! - [`signing`], who made a result or a job.
//! - [`admin`], a hub's server told of new members.
//! - [`metrics`], Prometheus; [`probe`], whether a site could work.

pub mod admin;
pub mod archive;
pub mod artifacts;
mod ask;
pub mod client;
pub mod clock;
pub mod conductor;
pub mod connection;
mod direct;
mod error;
pub mod exit;
mod flow;
pub mod gate;
pub mod guests;
pub mod known;
pub mod metrics;
pub mod probe;
pub mod publish;
pub mod rights;
pub mod server;
pub mod signing;
pub mod streams;
pub mod subjects;
pub mod tail;
pub mod worker;

pub use error::Error;
