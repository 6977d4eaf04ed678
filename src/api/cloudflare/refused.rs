//! What the control floor refuses, in the words and numbers of this dialect.

use http::StatusCode;

use super::codes;
use crate::api::problem::{Detail, Problem};
use crate::control::{ControlError, EntryFault, EntryKind};
use crate::domain::Holder;
use crate::pki::validate::{Fault, FieldWords};

/// The refusal of something that was asked of one of the lists.
pub(super) fn refused(error: ControlError, list: Holder) -> Problem {
    let text = error.to_string();
    let bad = |number| Problem::bad_request(text.clone()).numbered(number);
    match error {
        ControlError::Invalid(faults) => {
            let words = if list == Holder::Account { FieldWords::ACCOUNT } else { FieldWords::ZONE };
            let details: Vec<_> = faults.iter().map(|fault| detail_of_fault(fault, &words)).collect();
            Problem::faulty(text, details)
        }
        ControlError::Entries(faults) => Problem::faulty(text, faults.into_iter().map(detail_of_entry).collect()),
        ControlError::Duplicate(_) if list == Holder::Account => bad(codes::ALREADY_IN_ACCOUNT),
        ControlError::Duplicate(_) => bad(codes::ALREADY_IN_ZONE),
        ControlError::InUse(_) if list == Holder::Account => bad(codes::IN_USE),
        // The vendor's words, which scripts look for, and then what they do not say.
        ControlError::InUse(why) => {
            Problem::bad_request(format!("Certificate cannot be deleted while in use: {why}")).numbered(codes::IN_USE)
        }
        ControlError::Full { .. } => bad(codes::QUOTA),
        ControlError::Ending(..) => bad(codes::PENDING_DELETION),
        ControlError::WrongList { .. } => bad(codes::NOT_NAMEABLE),
        ControlError::NotFound("certificate") => no_certificate(list),
        ControlError::Field { field, .. } => {
            let detail = Detail { message: text.clone(), number: None, pointer: Some(format!("/{field}")) };
            Problem::faulty(text, vec![detail])
        }
        // The token may do it; the place is not the API's to change.
        other @ ControlError::Declared(..) => Problem::from(other).with_status(StatusCode::BAD_REQUEST),
        other => other.into(),
    }
}

/// A certificate that is looked at and is not in this list.
pub(super) fn not_shown(error: ControlError, list: Holder) -> Problem {
    match error {
        // Whoever only looks finds nothing here, and is told where it is.
        ControlError::WrongList { held, .. } => {
            let message = format!("certificate not found: it is one of {}, and these are {}", held.list(), list.list());
            Problem::missing(message).numbered(number_of_none(list))
        }
        other => refused(other, list),
    }
}

/// No certificate of this list has the id.
pub(super) fn no_certificate(list: Holder) -> Problem {
    Problem::not_found("certificate").numbered(number_of_none(list))
}

fn number_of_none(list: Holder) -> u16 {
    match list {
        Holder::Account => codes::NOT_IN_ACCOUNT,
        Holder::Hostnames => codes::NO_HOSTNAME_CERTIFICATE,
        Holder::Zone | Holder::Project => codes::NO_ZONE_CERTIFICATE,
    }
}

fn detail_of_fault(fault: &Fault, words: &FieldWords) -> Detail {
    Detail {
        message: fault.told(words),
        number: Some(codes::of_fault(fault.kind)),
        pointer: Some(format!("/{}", words.of(fault.field))),
    }
}

fn detail_of_entry(fault: EntryFault) -> Detail {
    let number = match fault.kind {
        EntryKind::MissingCertificate => Some(codes::ID_WANTED),
        EntryKind::UnknownCertificate | EntryKind::WrongList => Some(codes::NOT_NAMEABLE),
        EntryKind::TooMany => Some(codes::QUOTA),
        EntryKind::Declared | EntryKind::Twice => None,
    };
    Detail {
        message: format!("config[{}].{}: {}", fault.index, fault.field, fault.what),
        number,
        pointer: Some(format!("/config/{}/{}", fault.index, fault.field)),
    }
}
