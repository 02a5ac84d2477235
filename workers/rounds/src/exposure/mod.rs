//! What leaves a site, and who decides: nothing that should not.
//!
//! - [`policy`]: which jobs the site takes on.
//! - [`approval`]: what a person has said to a job.
//! - [`admission`]: both, asked before any task is worked on.
//! - [`exit`]: what is shown every message and artifact before it leaves.
//! - [`audit`]: the log of what left.
//! - [`names`]: what must not be in a sentence that leaves.
//! - [`pseudonyms`]: what cases are called outside.

pub mod admission;
pub mod approval;
pub mod audit;
pub mod exit;
pub mod names;
pub mod policy;
pub mod pseudonyms;
