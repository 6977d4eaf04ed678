//! What people are told of a certificate whose end comes near.

use time::OffsetDateTime;

use crate::domain::time::rfc3339;
use crate::domain::{CertificateInfo, Pattern, ProjectInfo, SKEW, Source, Threshold};
use crate::observe::{Event, EventKind};
use crate::registry::{Certificate, Snapshot};

/// Origins that a warning names; of others it says how many there are.
const MOST_ORIGINS: usize = 8;

/// A warning that a certificate expires, or has expired.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Warning {
    /// How near its end is.
    pub threshold: Threshold,
    /// Whose it is: id and name.
    pub project: ProjectInfo,
    /// The certificate.
    pub certificate: CertificateInfo,
    /// Where it is presented, as bindings print it; the first of them.
    pub origins: Vec<String>,
    /// How many places there are beside those.
    pub more_origins: usize,
    /// Whole days left; negative once it has expired.
    pub days_left: i64,
    /// The command that renews it, or what is to be done where a command cannot.
    pub remedy: String,
    /// All of it in a sentence.
    pub text: String,
}

impl Warning {
    /// What is to be told of this certificate at `now`; `None` while its end is far, or if it is presented nowhere.
    #[must_use]
    pub fn of(snapshot: &Snapshot, certificate: &Certificate, now: OffsetDateTime) -> Option<Self> {
        let info = &certificate.info;
        let threshold = Threshold::reached(info.not_after, now)?;
        let patterns = snapshot.presented_at(&info.id);
        let first = patterns.first()?;
        let project = snapshot.info();
        let mut origins: Vec<String> = patterns.iter().map(Pattern::to_string).collect();
        let more_origins = origins.len().saturating_sub(MOST_ORIGINS);
        origins.truncate(MOST_ORIGINS);
        let days_left = info.days_left(now);
        let remedy = remedy(project, info, first);
        let text = format!(
            "certificate {} ({}) of project {} {}; it is presented to {}; {}",
            info.id,
            info.subject,
            project.name,
            when(info, project, threshold, days_left, now),
            places(&origins, more_origins),
            match info.source {
                Source::Api => format!("renew it with: {remedy}"),
                Source::File(_) => remedy.clone(),
            }
        );
        Some(Self {
            threshold,
            project: ProjectInfo::clone(project),
            certificate: CertificateInfo::clone(info),
            origins,
            more_origins,
            days_left,
            remedy,
            text,
        })
    }

    /// Its kind: `certificate.expiring` or `certificate.expired`.
    #[must_use]
    pub fn kind(&self) -> EventKind {
        match self.threshold {
            Threshold::Expired => EventKind::CertificateExpired,
            _ => EventKind::CertificateExpiring,
        }
    }

    /// The same as an event.
    #[must_use]
    pub fn event(&self) -> Event {
        let event = Event::new(self.kind(), self.text.clone()).about(&self.project.id, &self.certificate.id);
        Event { days_left: Some(self.days_left), remedy: Some(self.remedy.clone()), ..event.at_origins(&self.origins) }
    }
}

fn when(info: &CertificateInfo, project: &ProjectInfo, threshold: Threshold, days: i64, now: OffsetDateTime) -> String {
    let at = rfc3339(info.not_after);
    let sent = !info.ends_by_time(project.on_expiry);
    match (threshold, days) {
        (Threshold::Expired, _) if sent => format!("expired {at}, and is sent all the same"),
        // Clocks may differ, so it still is for a while; who reads this later reads until when.
        (Threshold::Expired, _) if now < info.not_after + SKEW => {
            format!("expired {at}, and is not sent any more from {} on", rfc3339(info.not_after + SKEW))
        }
        (Threshold::Expired, _) => format!("expired {at}, and is not sent any more"),
        (_, ..=0) => format!("expires {at}: less than a day is left"),
        (_, 1) => format!("expires {at}: 1 day is left"),
        (_, days) => format!("expires {at}: {days} days are left"),
    }
}

fn places(origins: &[String], more: usize) -> String {
    let named = |origin: &String| if origin == "*" { "every origin that asks".to_owned() } else { origin.clone() };
    let mut text = origins.iter().map(named).collect::<Vec<_>>().join(", ");
    if more > 0 {
        text.push_str(&format!(" and {more} more"));
    }
    text
}

/// What to do, for the first of the places where it is presented.
fn remedy(project: &ProjectInfo, info: &CertificateInfo, pattern: &Pattern) -> String {
    if let Source::File(file) = &info.source {
        return format!("write the new certificate and its key over the files that {} names for it", file.display());
    }
    // Namesakes of several teams are told apart by id alone.
    let project = match (&project.team, project.name.as_str()) {
        (None, "default") => String::new(),
        (None, name) => format!(" --project {}", quoted(name)),
        (Some(_), _) => format!(" --project {}", project.id),
    };
    let origin = match pattern {
        Pattern::Default => String::new(),
        // In quotes: a shell would read the star of a wildcard.
        pattern => format!(" --origin '{pattern}'"),
    };
    format!("egret certs upload{project}{origin} --cert FILE --key FILE --ca FILE")
}

/// As a shell takes it for one word.
fn quoted(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    if text.chars().all(plain) { text.to_owned() } else { format!("'{}'", text.replace('\'', r"'\''")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_one_word_to_a_shell() {
        assert_eq!([quoted("a-b.c_1"), quoted("a b"), quoted("it's")], ["a-b.c_1", "'a b'", r"'it'\''s'"]);
    }
}
