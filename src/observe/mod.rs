//! Floor 2: what egret tells of itself.

mod access_log;
mod line;
mod metrics;

pub use access_log::{AccessLog, Exchange, Format, RequestId};
pub use metrics::{Count, Metrics};
