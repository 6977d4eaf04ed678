//! Floor 1: what egret tells of itself.
mod metrics;
pub use metrics::Metrics;
