//! The whole system: real processes, a real nats-server. And the rules of the house.

mod house;
mod plain_client;
