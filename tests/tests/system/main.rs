//! The whole system: real processes, a real nats-server. And the rules of the house.

mod accelerator;
mod averaging;
mod cache;
mod chaos;
mod continuation;
mod descriptors;
mod doctor;
mod dry_run;
mod elastic;
mod exposure;
mod house;
mod initial_checkpoint;
mod job;
mod killed;
mod line;
mod masked;
mod measured;
mod overhead;
mod plain_client;
mod poisoned;
mod predict_with_python;
mod refused;
mod scored;
mod security;
mod stub;
mod unheard;
