//! Series in the text that a Prometheus reads, written by prometheus-client.

use std::fmt;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, MetricEncoder, text};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Registry;

/// Whether a value only grows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// It only grows, from 0 at the start of the process.
    Counter,
    /// It goes up and down.
    Gauge,
}

/// All series of one name.
#[derive(Debug, Clone)]
pub struct Family {
    /// Without the `_total` of a counter.
    pub name: String,
    /// One line, without a full stop.
    pub help: String,
    /// Of all its samples.
    pub kind: Kind,
    /// Each with labels of its own, the same names in all of them.
    pub samples: Vec<Sample>,
}

/// A value with its labels.
#[derive(Debug, Clone)]
pub struct Sample {
    /// Name and value.
    pub labels: Vec<(&'static str, String)>,
    /// Counters: not negative.
    pub value: i64,
}

impl Family {
    /// A family without samples.
    #[must_use]
    pub fn new(name: &str, help: &str, kind: Kind) -> Self {
        let help = help.trim().trim_end_matches('.').to_owned();
        Self { name: name.to_owned(), help, kind, samples: Vec::new() }
    }

    /// A gauge with one value and no labels.
    #[must_use]
    pub fn gauge(name: &str, help: &str, value: i64) -> Self {
        let sample = Sample { labels: Vec::new(), value };
        Self { samples: vec![sample], ..Self::new(name, help, Kind::Gauge) }
    }

    /// The same with one more sample.
    #[must_use]
    pub fn with(mut self, labels: &[(&'static str, String)], value: u64) -> Self {
        self.push(labels, value);
        self
    }

    /// Adds a sample.
    pub fn push(&mut self, labels: &[(&'static str, String)], value: u64) {
        self.samples.push(Sample { labels: labels.to_vec(), value: i64::try_from(value).unwrap_or(i64::MAX) });
    }
}

/// Which text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exposition {
    /// OpenMetrics 1.0.0.
    OpenMetrics,
    /// Prometheus text 0.0.4, for those that read nothing newer.
    Text,
}

impl Exposition {
    /// The media type to answer with.
    #[must_use]
    pub fn content_type(self) -> &'static str {
        match self {
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
            Self::Text => "text/plain; version=0.0.4; charset=utf-8",
        }
    }

    /// What a client reads that sent this `Accept` (RFC 9110 section 12.5.1): text if it prefers that by name, else
    /// OpenMetrics.
    #[must_use]
    pub fn accepted(accept: &str) -> Self {
        let quality = |wanted: &str| {
            let ranges = accept.split(',').filter_map(|range| {
                let mut parts = range.split(';').map(str::trim);
                let named = parts.next()?.eq_ignore_ascii_case(wanted);
                let q = parts.find_map(|p| p.strip_prefix("q=").or_else(|| p.strip_prefix("Q=")));
                named.then(|| q.map_or(1.0, |q| q.parse::<f32>().unwrap_or(0.0)))
            });
            ranges.fold(None::<f32>, |best, q| Some(best.map_or(q, |best| best.max(q))))
        };
        match (quality("text/plain"), quality("application/openmetrics-text")) {
            (Some(text), open) if text > open.unwrap_or(0.0) => Self::Text,
            _ => Self::OpenMetrics,
        }
    }

    /// The families as text.
    #[must_use]
    pub fn write(self, families: Vec<Family>) -> String {
        let mut registry = Registry::default();
        registry.register_collector(Box::new(Collected { families, exposition: self }));
        let mut out = String::with_capacity(16 * 1024);
        let written = match self {
            Self::OpenMetrics => text::encode(&mut out, &registry),
            Self::Text => text::encode_registry(&mut out, &registry),
        };
        written.expect("writing to memory cannot fail");
        out
    }
}

#[derive(Debug)]
struct Collected {
    families: Vec<Family>,
    exposition: Exposition,
}

impl Collector for Collected {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        for family in &self.families {
            // In the older text a counter's name has its suffix everywhere; the library puts it on samples only.
            let open = self.exposition == Exposition::OpenMetrics;
            let (name, kind) = match family.kind {
                Kind::Counter if open => (family.name.clone(), MetricType::Counter),
                Kind::Counter => (format!("{}_total", family.name), MetricType::Counter),
                Kind::Gauge => (family.name.clone(), MetricType::Gauge),
            };
            let mut metric = encoder.encode_descriptor(&name, &family.help, None, kind)?;
            let with_suffix = open && family.kind == Kind::Counter;
            for sample in &family.samples {
                if sample.labels.is_empty() {
                    value(&mut metric, sample.value, with_suffix)?;
                } else {
                    value(&mut metric.encode_family(&sample.labels)?, sample.value, with_suffix)?;
                }
            }
        }
        Ok(())
    }
}

fn value(metric: &mut MetricEncoder<'_>, value: i64, with_suffix: bool) -> Result<(), fmt::Error> {
    if with_suffix {
        metric.encode_counter::<prometheus_client::encoding::NoLabelSet, _, u64>(&value.unsigned_abs(), None)
    } else {
        metric.encode_gauge(&value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn families() -> Vec<Family> {
        let label = |v: &str| [("result", v.to_owned())];
        vec![
            Family::new("egret_handshakes", " TLS handshakes.", Kind::Counter)
                .with(&label("full"), 2)
                .with(&label("a\"\\\n"), 0),
            Family::gauge("egret_left_seconds", "Time left", -7),
            Family::new("egret_resent", "Sent again", Kind::Counter).with(&[], 3),
        ]
    }

    #[test]
    fn writes_openmetrics() {
        let expected = r#"# HELP egret_handshakes TLS handshakes
# TYPE egret_handshakes counter
egret_handshakes_total{result="full"} 2
egret_handshakes_total{result="a\"\\\n"} 0
# HELP egret_left_seconds Time left
# TYPE egret_left_seconds gauge
egret_left_seconds -7
# HELP egret_resent Sent again
# TYPE egret_resent counter
egret_resent_total 3
# EOF
"#;
        assert_eq!(Exposition::OpenMetrics.write(families()), expected);
    }

    #[test]
    fn writes_the_older_text() {
        let expected = r#"# HELP egret_handshakes_total TLS handshakes
# TYPE egret_handshakes_total counter
egret_handshakes_total{result="full"} 2
egret_handshakes_total{result="a\"\\\n"} 0
# HELP egret_left_seconds Time left
# TYPE egret_left_seconds gauge
egret_left_seconds -7
# HELP egret_resent_total Sent again
# TYPE egret_resent_total counter
egret_resent_total 3
"#;
        assert_eq!(Exposition::Text.write(families()), expected);
    }

    #[test]
    fn reads_what_is_accepted() {
        for (accept, expected) in [
            ("", Exposition::OpenMetrics),
            ("*/*", Exposition::OpenMetrics),
            ("text/plain", Exposition::Text),
            ("text/plain;version=0.0.4", Exposition::Text),
            // What Prometheus sends.
            (
                "application/openmetrics-text;version=1.0.0;q=0.5,application/openmetrics-text;version=0.0.1;q=0.4,text/plain;version=0.0.4;q=0.3,*/*;q=0.2",
                Exposition::OpenMetrics,
            ),
            ("application/openmetrics-text; q=0.1, text/plain; q=0.9", Exposition::Text),
            ("text/plain;q=0", Exposition::OpenMetrics),
            ("text/plain;q=x", Exposition::OpenMetrics),
        ] {
            assert_eq!(Exposition::accepted(accept), expected, "{accept}");
        }
    }
}
