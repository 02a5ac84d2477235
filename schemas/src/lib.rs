//! Every message that travels between the parts of Rounds, and every nnU-Net document.

pub mod job;
pub mod nnunet;
