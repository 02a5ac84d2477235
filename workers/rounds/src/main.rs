//! Rounds: federated nnU-Net.
//!
//! - `cli/`: one command, one file.
//! - `phases/`: one phase, one file: task in, one call into `nnunet`, result out.
//! - `memory.rs`: what the process keeps between the iterations of a training; `free_memory.rs`: whether a device has
//!   what one needs.
//! - `provision/`: the members of a federation, and what its hub lets them do.
//! - `exposure/`: what leaves a site, and who decides.
//! - `gpu.rs`: what the driver says of the accelerators.
//! - `settings.rs`: what a site and an orchestrator are told.
//! - `site.rs`: the folder that all workers of a site share; `job_folder.rs`: what is in it for one job;
//!   `room.rs`: how large its cache of cases gets; `gc.rs`: what in it no live job needs.

// An orchestrator's build leaves most of what sites do unused.
#![cfg_attr(not(feature = "torch"), allow(dead_code, unused_imports))]

mod byte_size;
mod cli;
mod device;
mod exposure;
mod free_memory;
mod gc;
mod gpu;
mod job_check;
mod job_folder;
mod memory;
mod parts;
mod phases;
mod privacy;
mod provision;
mod room;
mod settings;
mod site;

use clap::Parser;

fn main() -> std::process::ExitCode {
    let arguments = cli::Arguments::parse_from(cli::nnunet::long_flags(std::env::args_os()));
    cli::init_output(&arguments);
    match cli::run(arguments) {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(error) => {
            cli::output::fail(&error);
            std::process::ExitCode::FAILURE
        }
    }
}
