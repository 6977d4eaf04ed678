//! The end of a certificate's validity as it comes near: when people are warned, and when connections end.
//!
//! Everything here takes the time as an argument: the wall clock may step either way, and what is true then follows
//! from the time alone.

use std::time::Duration;

use time::OffsetDateTime;

use super::{CertificateInfo, OnExpiry, SKEW};

/// How near the end is, as people are told of it. In order: the later, the nearer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Threshold {
    /// At most 30 days are left.
    Month,
    /// At most 14 days.
    Fortnight,
    /// At most 7 days.
    Week,
    /// At most a day.
    Day,
    /// It has expired.
    Expired,
}

impl Threshold {
    /// All of them, in order.
    pub const ALL: [Self; 5] = [Self::Month, Self::Fortnight, Self::Week, Self::Day, Self::Expired];

    /// Days that are left at most; 0 once it has expired.
    #[must_use]
    pub fn days(self) -> u8 {
        match self {
            Self::Month => 30,
            Self::Fortnight => 14,
            Self::Week => 7,
            Self::Day => 1,
            Self::Expired => 0,
        }
    }

    /// When it is reached by what ends at `not_after`.
    #[must_use]
    pub fn reached_at(self, not_after: OffsetDateTime) -> OffsetDateTime {
        not_after - time::Duration::days(i64::from(self.days()))
    }

    /// What ends until this time has reached it at `now`.
    #[must_use]
    pub fn reached_from(self, now: OffsetDateTime) -> OffsetDateTime {
        now + time::Duration::days(i64::from(self.days()))
    }

    /// The last one that is reached at `now`.
    #[must_use]
    pub fn reached(not_after: OffsetDateTime, now: OffsetDateTime) -> Option<Self> {
        Self::ALL.into_iter().rev().find(|threshold| now >= threshold.reached_at(not_after))
    }
}

/// How near the end is to connections. What was made at one of these is not used at the next.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum Ending {
    /// Far.
    #[default]
    Far,
    /// Less than the drain is left: what runs under older connections has until the end.
    Near,
    /// The end has passed; clocks may differ, and new connections are still made.
    Passed,
    /// It has passed by more than clocks may differ.
    Over,
}

impl Ending {
    /// Where the certificate stands at `now`; always far where its end is no reason not to send it.
    #[must_use]
    pub fn of(info: &CertificateInfo, on_expiry: OnExpiry, now: OffsetDateTime, drain: Duration) -> Self {
        let steps = [Self::Over, Self::Passed, Self::Near];
        let reached = |ending: &Self| ending.reached_at(info.not_after, drain).is_some_and(|at| now >= at);
        match info.ends_by_time(on_expiry) {
            true => steps.into_iter().find(reached).unwrap_or_default(),
            false => Self::Far,
        }
    }

    fn reached_at(self, not_after: OffsetDateTime, drain: Duration) -> Option<OffsetDateTime> {
        match self {
            Self::Far => None,
            Self::Near => Some(not_after - drain),
            Self::Passed => Some(not_after),
            Self::Over => Some(not_after + SKEW),
        }
    }
}

impl CertificateInfo {
    /// Whether it is not sent any more once it has expired (product.md section 2).
    #[must_use]
    pub fn ends_by_time(&self, on_expiry: OnExpiry) -> bool {
        !self.skip_validation && on_expiry == OnExpiry::Refuse
    }

    /// When what is made with it at `now` must have ended: its notAfter, and after that, in the skew that is forgiven,
    /// the end of that. `None`: its end is no reason.
    #[must_use]
    pub fn ends_at(&self, on_expiry: OnExpiry, now: OffsetDateTime) -> Option<OffsetDateTime> {
        let end = if now < self.not_after { self.not_after } else { self.not_after + SKEW };
        self.ends_by_time(on_expiry).then_some(end)
    }

    /// When something changes next with respect to its end: a [`Threshold`] or an [`Ending`]; `None`: never again.
    #[must_use]
    pub fn next_step(&self, on_expiry: OnExpiry, now: OffsetDateTime, drain: Duration) -> Option<OffsetDateTime> {
        let told = Threshold::ALL.map(|threshold| Some(threshold.reached_at(self.not_after)));
        let steps = [Ending::Near, Ending::Passed, Ending::Over];
        let ends = steps.map(|e| e.reached_at(self.not_after, drain).filter(|_| self.ends_by_time(on_expiry)));
        told.into_iter().chain(ends).flatten().filter(|at| *at > now).min()
    }
}

#[cfg(test)]
mod tests {
    use time::Duration as Span;

    use super::*;
    use crate::domain::{CertificateId, Fingerprint, Holder, KeyKind, Source};

    const DRAIN: Duration = Duration::from_secs(30);

    fn certificate(skip_validation: bool) -> CertificateInfo {
        CertificateInfo {
            id: CertificateId::parse("c").unwrap(),
            subject: "CN=c".to_owned(),
            issuer: "CN=ca".to_owned(),
            serial_number: "1".to_owned(),
            signature: "ECDSAWithSHA256",
            not_before: OffsetDateTime::UNIX_EPOCH,
            not_after: OffsetDateTime::UNIX_EPOCH + Span::days(100),
            fingerprint: Fingerprint([1; 32]),
            spki_fingerprint: Fingerprint([2; 32]),
            key: KeyKind::P256,
            chain_length: 1,
            uploaded_at: OffsetDateTime::UNIX_EPOCH,
            warnings: Vec::new(),
            skip_validation,
            source: Source::Api,
            holder: Holder::Project,
        }
    }

    #[test]
    fn each_threshold_is_reached_at_its_own_second() {
        let end = OffsetDateTime::UNIX_EPOCH + Span::days(100);
        let at = |before: Span| Threshold::reached(end, end - before);
        assert_eq!(at(Span::days(30) + Span::SECOND), None);
        assert_eq!(at(Span::days(30)), Some(Threshold::Month));
        assert_eq!(at(Span::days(14) + Span::SECOND), Some(Threshold::Month));
        assert_eq!(at(Span::days(14)), Some(Threshold::Fortnight));
        assert_eq!(at(Span::days(7)), Some(Threshold::Week));
        assert_eq!(at(Span::days(1)), Some(Threshold::Day));
        assert_eq!(at(Span::SECOND), Some(Threshold::Day));
        assert_eq!(at(Span::ZERO), Some(Threshold::Expired));
        assert_eq!(at(Span::days(-400)), Some(Threshold::Expired));
    }

    #[test]
    fn connections_end_in_three_steps() {
        let info = certificate(false);
        let at = |before: Span| Ending::of(&info, OnExpiry::Refuse, info.not_after - before, DRAIN);
        assert_eq!(at(Span::seconds(31)), Ending::Far);
        assert_eq!(at(Span::seconds(30)), Ending::Near);
        assert_eq!(at(Span::SECOND), Ending::Near);
        assert_eq!(at(Span::ZERO), Ending::Passed);
        assert_eq!(at(Span::seconds(-299)), Ending::Passed);
        assert_eq!(at(Span::seconds(-300)), Ending::Over);
        let now = info.not_after + Span::days(3);
        assert_eq!(Ending::of(&info, OnExpiry::Send, now, DRAIN), Ending::Far);
        assert_eq!(Ending::of(&certificate(true), OnExpiry::Refuse, now, DRAIN), Ending::Far);
    }

    #[test]
    fn what_begins_in_the_skew_ends_with_it() {
        let info = certificate(false);
        let end = info.not_after;
        assert_eq!(info.ends_at(OnExpiry::Refuse, end - Span::SECOND), Some(end));
        assert_eq!(info.ends_at(OnExpiry::Refuse, end), Some(end + SKEW));
        assert_eq!(info.ends_at(OnExpiry::Send, end), None);
    }

    #[test]
    fn no_step_is_left_out_on_the_way() {
        let info = certificate(false);
        let steps = |on_expiry| {
            let (mut now, mut steps) = (OffsetDateTime::UNIX_EPOCH, Vec::new());
            while let Some(next) = info.next_step(on_expiry, now, DRAIN) {
                steps.push((info.not_after - next).whole_seconds());
                now = next;
            }
            steps
        };
        const DAY: i64 = 86_400;
        assert_eq!(steps(OnExpiry::Refuse), [30 * DAY, 14 * DAY, 7 * DAY, DAY, 30, 0, -300]);
        assert_eq!(steps(OnExpiry::Send), [30 * DAY, 14 * DAY, 7 * DAY, DAY, 0]);
    }
}
