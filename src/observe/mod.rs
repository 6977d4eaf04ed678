//! Floor 1: what egret tells of itself.
pub mod access_log;
mod metrics;
pub use access_log::{Exchange, RequestId};
pub use metrics::Metrics;
