//! Floor 2: what egret tells of itself.

mod access_log;
mod events;
mod export;
mod line;
mod metrics;

pub use access_log::{AccessLog, Exchange, Format, RequestId};
pub use events::{Event, EventKind, Events, Followed};
pub use export::{Exposition, Family, Kind, Sample};
pub use metrics::{Count, Metrics};
